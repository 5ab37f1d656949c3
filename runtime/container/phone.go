package container

// Phone is what the engine must know about a phone to build and start it. The caller has checked the values against the API's
// limits; the engine refuses only what it cannot build (errdefs.ErrInvalidArgument).
type Phone struct {
	// ID names the phone: 1..32 characters of [a-z0-9-], first and last a letter or a digit, no two hyphens together.
	ID string
	// Slot is a small number, unique among the phones of this host while the phone exists. The display's uid is
	// Config.DisplayUIDBase + Slot.
	Slot uint32
	// Image is the reference of the image and ImageDigest its digest, "sha256:...". The digest decides which content is used; the
	// reference is kept as a label and is asked for only while the phone's root snapshot does not exist.
	Image, ImageDigest string
	// Profile names the kind of Android image; see package profile.
	Profile string
	// VCPUs is the CPU time the guest may use, in cores; more than 0.
	VCPUs float64
	// CPUWeight is the weight against other phones, 1..10000; 0 means 100.
	CPUWeight uint32
	// MemoryBytes is the memory limit of the guest in bytes; more than 0. It includes what the guest keeps in its tmpfs mounts.
	MemoryBytes uint64
	// DataBytes is the size of /data in bytes, a multiple of 4096, at least 16 MiB.
	DataBytes uint64
	// Display is the virtual screen.
	Display DisplaySpec
	// DNS are the addresses of the guest's name servers, the first asked first; none: the image's own.
	DNS []string
	// Properties are given to the guest's init before it starts anything.
	Properties map[string]string
	// DataGeneration counts resets: it names the root snapshot and the data image that are used.
	DataGeneration uint64
	// BootGeneration counts boots; it is only recorded, as a label, and read back by Observe.
	BootGeneration uint64
	// Note is what the caller wants to know of what runs: it is recorded with each container, and read back by Observe. At most 1 KiB.
	Note string
}

// DisplaySpec is a virtual screen: pixels, dots per inch and frames per second.
type DisplaySpec struct {
	Width, Height, DPI, FPS uint32
}

// Role says which of a phone's two containers is meant.
type Role int

// The roles.
const (
	Guest Role = iota
	Display
)

// String returns "guest" or "display".
func (r Role) String() string {
	if r == Display {
		return "display"
	}
	return "guest"
}
