// Package suite knows which packages' tests also pass inside Debian system machines of the VM lab: kernel 6.12, cgroup v2 alone, systemd
// as process 1, on amd64 and arm64. Its table names every package of the repository that has tests, with what its tests need in a
// machine, and every test that does not run there, with the reason. Tests only; docs/portability.md is the table for people.
//
// Beside it are the tests of netpolicy/nat in machines that have Docker, firewalld and ufw.
//
// The packages for which kernel, cgroups or architecture matter most run daily, the others nightly: one machine per architecture takes
// them one after another.
package suite
