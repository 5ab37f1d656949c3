// Package service runs services of the host itself, such as the name server, each as a container of containerd: so they outlive the agent,
// and replaces them without a gap when they change.
//
// What a service is made of, for each instance of it that runs:
//
//	containers   service.<name>.<instance>, with the labels dev.phonehost.service=<name> and dev.phonehost.version=<version>
//	cgroups      <CgroupRoot>/.services/<name>.<instance> in every hierarchy
//	state        <StateDir>/services/<name>/<root>/: the program, and nothing else
//	run          <RunDir>/services/<name>/<instance>/{config,run}/: its files, and what it may write
//	logs         <LogDir>/services/<name>.log and .log.1, of all instances
//
// A version is all that a start depends on: the program's content, its arguments, files and mounts, its user and limits. Where none
// that runs has the version that is wanted, a new instance is started; when that says that it is ready, the others are asked to end (SIGTERM), and
// killed when they take too long. Instances have names of their own, so that two can be there at once, and one that died in a strange
// way is in nobody's way.
//
// The program must be static, or its libraries are in its root too (package displayroot).
//
// Nothing is remembered: each answer is read from containerd, so that another Host goes on where a killed one stopped. Every call may be repeated after a
// crash at any point. Calls that change the same service must not run at the same time; Observe may run beside anything.
package service
