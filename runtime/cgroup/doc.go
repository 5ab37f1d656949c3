// Package cgroup makes, limits and removes the cgroups that the agent owns above a phone's containers, in every hierarchy of the
// host: each controller of cgroup v1 that is mounted, and cgroup v2.
//
//	<root>/<id>             the phone: its weight against other phones
//	<root>/<id>/guest       the guest: its limits, out of its reach; kept across restarts of the guest
//	<root>/<id>/guest/ctr   the guest's container, made by runc
//	<root>/<id>/display     the display's container, made by runc
//	<root>/.NAME            no phone's: the holder's, the host's services', and the canary's of app lists
//
// Under systemd <root> is the cgroup of a delegated scope, which a process of its own holds (Find, Hold); without, it is /phonehost.
//
// A Tree keeps no state but where the hierarchies are mounted. Its methods may be called from several goroutines.
package cgroup
