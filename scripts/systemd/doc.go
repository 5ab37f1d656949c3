// Package systemd holds the units under which phonehostd and the cgroups of phones run, the script that installs them, and tests of
// both, in machines of the lab. docs/systemd.md describes them. It has no Go code but the tests.
package systemd
