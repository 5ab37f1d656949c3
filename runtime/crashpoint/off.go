//go:build !faults

package crashpoint

// Enabled is whether points do anything. It is a constant: what stands below "if crashpoint.Enabled" is not in a program without them.
const Enabled = false

// Reached marks an instant at which the process may die.
func Reached(name string) {}

// Fail marks an instant at which the process may die or what follows may fail: where it returns an error, the caller does as if what
// follows had returned it.
func Fail(name string) error { return nil }
