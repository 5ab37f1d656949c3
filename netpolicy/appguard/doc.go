// Package appguard is what decides in the kernel over the apps of phones: which packages may be installed, which apps may run, and which have a
// network. It owns the BPF programs for that in bpf/, the maps that they read and fill, and the pins by which both stay when the process ends. What a list of
// apps says, and which app has which uid, it is told.
//
// # Whose app
//
// A phone is known by the id of its cgroup v2, <CgroupRoot>/<phone>/guest: everything below it is the phone's, before the first process of it runs, and no other
// cgroup ever gets the id. An app is known by its app id: uid mod 100000, so that one element serves all Android users. The SDK sandbox of an
// app (20000 and up) is the app. Phones run in the host's user namespace: a uid in a phone is the same on the host, and in a user namespace that a phone makes the
// programs see what it is mapped to.
//
// # What is asked
//
//	launch   task_fix_setuid: all four uids of the new credentials; bprm_creds_from_file: a set-uid file. A refusal is -EPERM and SIGKILL
//	install  inode_rename, inode_mkdir: a directory that becomes "app/~~x/PACKAGE-y" or "app/PACKAGE-y"
//	network  cgroup/connect4, connect6, sendmsg4, sendmsg6 by the process; cgroup_skb egress and ingress by the owner of the socket
//
// The last are attached once to CgroupRoot, and work on every kernel. For the others there are three mechanisms: see Mechanism. Which is used is
// decided by the canary, a process in a cgroup of its own that is a phone like any other, and tries what must be refused. Attaching proves nothing:
// without "bpf" in lsm= it succeeds and nothing is enforced.
//
// # What is pinned where
//
//	Config.Dir                     on a BPF file system; flock(2) makes its owner one process
//	  v1                           LAYOUT of layout.h
//	    phones, names, uids...     the maps, by their names in C
//	    digests                    array by index of "names": SHA-256 of what is in it
//	    states                     hash by slot: cgroup, and SHA-256 of what SetPhone was told last
//	    reported                   hash by slot: how many unlisted refusals DrainDenials has reported
//	    draining/SLOT              a table of denials that was taken out of "denials" and is being reported
//	    programs/VERSION/PROGRAM   the cgroup programs; VERSION is a digest of the object file
//	    links/VERSION/PROGRAM      links of security hooks, functions and kprobes
//	    cgroup/PROGRAM             links of the cgroup programs
//
// Slot Config.MaxPhones is the canary's.
//
// # What a crash leaves
//
// What a phone has is one element of "phones", written when all that it refers to is there. A process that is killed leaves the old or the new, never a
// part; Open clears away tables that no phone refers to. Links of security hooks cannot be updated: those of a new version are attached beside the old ones,
// and a refusal of either holds; the old go when the canary has been refused. Cgroup links are updated in place.
//
// # Locking
//
// A Guard may be used by several goroutines; calls for one slot follow one another. SetPhone and RemovePhone wait for grace periods of RCU, some ms to
// tens of ms each; those that run at once share them. No goroutine outlives a call.
package appguard

//go:generate go tool bpf2go -target bpfel -type phone_flag -type uid_bit -type name_bit -type denial_kind -type setting_flag -type phone -type name_key -type denial_key -type denial -type event -cflags "-O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I../datapath/bpf/include" bpf bpf/appguard.c
