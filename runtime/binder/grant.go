package binder

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Reason is the word, for programs, that a refusal for want of binder carries.
const Reason = "NO_BINDER"

// Refusal is the error for a guest that cannot have binder. Its class is errdefs.ErrFailedPrecondition where the kernel has none,
// and errdefs.ErrResourceExhausted where all of it is in use.
type Refusal struct {
	class   error
	message string
}

// Error says what is missing and what would mend it.
func (r *Refusal) Error() string { return r.message }

// Unwrap returns the class.
func (r *Refusal) Unwrap() error { return r.class }

// Reason returns the word Reason.
func (r *Refusal) Reason() string { return Reason }

// Missing is the refusal of a kernel without binder.
func Missing() *Refusal {
	return &Refusal{errdefs.ErrFailedPrecondition,
		"the kernel has no binder, which this guest needs; load it (modprobe binder_linux) or use a kernel with CONFIG_ANDROID_BINDERFS"}
}

// Exhausted is the refusal of a pool of so many triples, all in use.
func Exhausted(triples int) *Refusal {
	return &Refusal{errdefs.ErrResourceExhausted, fmt.Sprintf("all sets of binder devices of this host (%d) are in use; "+
		"power a phone off, load binder_linux with more names in devices=, or use a kernel with CONFIG_ANDROID_BINDERFS", triples)}
}

// Grant is what one guest gets: an instance of binderfs, or a triple, or, where it is zero, nothing.
type Grant struct {
	// Instance describes the guest's own binderfs; nil without.
	Instance *Instance
	// Triple is leased to the guest; nil without.
	Triple *Triple
}

// Instance is how a binderfs is mounted for a guest.
type Instance struct {
	// Major is the number of all devices of binderfs. A node of another instance that a guest makes with such a number does not open:
	// the kernel knows these devices by their inodes in binderfs, not by their numbers.
	Major uint32
	// Max is how many devices the instance may have, so that its guest cannot have the kernel allocate without end.
	Max int
}

// Label is the Grant as a label of the guest's container: "binderfs", the name of the triple, or "".
func (g Grant) Label() string {
	switch {
	case g.Instance != nil:
		return "binderfs"
	case g.Triple != nil:
		return g.Triple.Name
	}
	return ""
}

// Grant chooses what a guest gets. used are the labels of the other guests that exist, and own is that of the guest's former container
// or empty: a guest that boots again keeps its triple. The zero Grant is the answer where the kernel has nothing; where all triples
// are in use it is a *Refusal.
func (s Support) Grant(own string, used []string) (Grant, error) {
	switch s.Kind {
	case FS:
		most := len(s.Defaults)
		for _, name := range Names {
			if !slices.Contains(s.Defaults, name) {
				most++
			}
		}
		return Grant{Instance: &Instance{Major: s.Major, Max: most}}, nil
	case Pool:
		free := slices.DeleteFunc(slices.Clone(s.Triples), func(t Triple) bool { return slices.Contains(used, t.Name) })
		if len(free) == 0 {
			return Grant{}, Exhausted(len(s.Triples))
		}
		if i := slices.IndexFunc(free, func(t Triple) bool { return t.Name == own }); i >= 0 {
			return Grant{Triple: &free[i]}, nil
		}
		return Grant{Triple: &free[0]}, nil
	}
	return Grant{}, nil
}
