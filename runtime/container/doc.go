// Package container runs phones as containerd containers: for each phone a display and a guest, two tasks of one runc shim.
//
// It owns, for every phone, the two containers, the guest's root snapshot, the data images, the cgroups above the containers, the
// directories of the sockets and of the logs. It does not own network namespaces (it is told where they lie), desired state,
// retries or the meaning of an exit: that is the agent's. It remembers nothing about phones: each answer is read from containerd,
// the kernel or the file system, so that a new Engine continues where a killed one stopped.
//
// What a phone is made of:
//
//	containers   <id> (guest), <id>.display; both with the annotation io.containerd.runc.v2.group=<id>
//	snapshots    <id>.root.<data generation>.<image digest, 12 hex digits>
//	cgroups      <CgroupRoot>/<id>/{guest/ctr,display} in every hierarchy
//	state        <StateDir>/phones/<id>/data-<data generation>.img
//	run          <RunDir>/phones/<id>/{wayland,display}/
//	logs         <LogDir>/<id>/{guest,display}.log and .log.1
//
// Every call is idempotent and may be repeated after a crash at any point. Calls for different phones may run at the same time.
// Calls that change the same phone must not: the agent's controller of that phone is the only caller. Reading calls (Observe,
// Exec, ReadLog, BootCompleted, Specs, DataUsage, DataSpace) may run beside anything. ExportData, and CloneData as far as its source is
// concerned, only read, but a guest cannot be started on what they read: who wants to ends their context first. GrowData and TrimData may
// run beside the guest, not beside other changes.
//
// An Engine starts no goroutine of its own; Events starts one, which ends with its context, and Exec waits for those it needs.
package container
