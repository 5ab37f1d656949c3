// Package phone keeps the phones of this host: what each should be, and one controller per phone that drives what is toward
// it.
//
// Three types tell them apart. Record is what was stored: the spec and the desired state. container.Observation is what
// containerd and the kernel show now; it is read before every step and never remembered as truth. Snapshot joins the two for
// readers.
//
// A request changes desired state and creates its operation in one transaction; then the phone's controller runs the loop
// observe, plan, act until nothing is left to do. The plan is a pure function of record and observation, and every act is
// idempotent, so that a crash of the agent at any point is mended by the same loop (docs/agent.md draws it).
//
// Wishes are fields of the record and steps of the plan: freezes, leases, limits that a running guest gets, a volume that is to
// grow, a copy of another phone's data. What a request may do in which situation is one table (judge). Boots are admitted by a
// queue that the supervisor keeps in memory alone (bootQueue): its order is stored with the wishes.
//
// Goroutines: the Supervisor owns one controller goroutine per phone, one that reads the runtime's events, one that hears of the
// wall clock being set, and one that collects garbage; Close waits for all of them. A phone's network is the one thing that a request's
// own goroutine changes too, in turn with the controller (link): it has to take effect whatever the controller is doing. A record in memory changes only in the commit hook of the transaction that
// stored it, so memory and disk never differ. The package never speaks to containerd, the kernel or a display by itself: the
// interfaces Runtime, Volumes, Networks, AppLists, Displays and Images are all it knows of them.
package phone

import (
	"fmt"
	"maps"
)

// Status is what a phone is doing now. The numbers are those of the API and are printed by phonectl.
type Status int

// Statuses of a phone.
const (
	// Unknown means that containerd cannot be asked.
	Unknown Status = 0
	// Stopped means not running, and nobody asked for off: new, crashed out, or its boot failed.
	Stopped Status = 1
	// Running means that the guest reported boot completed.
	Running Status = 2
	// Stopping means shutting down.
	Stopping Status = 3
	// Starting means created or booting.
	Starting Status = 4
	// PoweredOff means off because someone asked: through the API, or by a power-off inside the guest.
	PoweredOff Status = 5
)

// String returns the status in the API's words.
func (s Status) String() string {
	names := [...]string{"UNKNOWN", "STOPPED", "RUNNING", "STOPPING", "STARTING", "POWERED_OFF"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("STATUS_%d", int(s))
	}
	return names[s]
}

// RestartPolicy says what follows when a guest ends without a request. The numbers are stored and are those of the API.
type RestartPolicy int

// Restart policies.
const (
	// Always boots again after a guest's reboot, and after a crash with back-off.
	Always RestartPolicy = 1
	// OnGuestReboot boots again after a guest's reboot; a crash leaves the phone STOPPED.
	OnGuestReboot RestartPolicy = 2
	// Never leaves the phone off whatever ended the guest.
	Never RestartPolicy = 3
)

// Display is the virtual screen of a phone.
type Display struct {
	// Width in pixels, even, 240..4096.
	Width uint32 `json:"width"`
	// Height in pixels, even, 240..4096.
	Height uint32 `json:"height"`
	// DPI is the density in dots per inch, 72..960.
	DPI uint32 `json:"dpi"`
	// MaxFPS is the refresh rate in frames per second, 1..120.
	MaxFPS uint32 `json:"max_fps"`
}

// Spec is what a phone should be. It is given at creation; an Update changes what may be changed (patchFields).
type Spec struct {
	// ID is the phone's name on this host: 1..32 characters of [a-z0-9-], first and last a letter or a digit, no two hyphens
	// together.
	ID string `json:"id"`
	// Image is the reference of an image that the host has.
	Image string `json:"image"`
	// Profile is the kind of Android image.
	Profile string `json:"profile"`
	// VCPUs is the CPU time that the guest may use, in cores, 0.1..the host's.
	VCPUs float64 `json:"vcpus"`
	// CPUWeight counts against other phones under contention, 1..10000.
	CPUWeight uint32 `json:"cpu_weight"`
	// MemoryBytes is the guest's memory limit, at least 64 MiB.
	MemoryBytes uint64 `json:"memory_bytes"`
	// DataBytes is the size of the /data volume, at least 64 MiB, a multiple of 4096.
	DataBytes uint64 `json:"data_bytes"`
	// Display is the virtual screen.
	Display Display `json:"display"`
	// Properties are set by the guest's init before it starts anything, at most 256.
	Properties map[string]string `json:"properties,omitempty"`
	// Labels are free words of the phone's owner, at most 64.
	Labels map[string]string `json:"labels,omitempty"`
	// RestartPolicy says what follows when the guest ends without a request.
	RestartPolicy RestartPolicy `json:"restart_policy"`
	// Lease says until when the phone may be used.
	Lease Lease `json:"lease,omitzero"`
	// Network is what its network should be.
	Network Network `json:"network,omitzero"`
	// AppList is the name of the list of apps that it is on, or empty.
	AppList string `json:"app_list,omitempty"`
}

// Equal reports whether two specs ask for the same phone.
func (s Spec) Equal(o Spec) bool {
	properties := maps.Equal(s.Properties, o.Properties)
	labels := maps.Equal(s.Labels, o.Labels)
	s.Properties, o.Properties, s.Labels, o.Labels = nil, nil, nil, nil
	return properties && labels && s.Lease.equal(o.Lease) && s.Network.equal(o.Network) && s.scalars() == o.scalars()
}

// scalars returns the fields of the spec that == compares.
func (s Spec) scalars() any {
	return [...]any{s.ID, s.Image, s.Profile, s.VCPUs, s.CPUWeight, s.MemoryBytes, s.DataBytes, s.Display, s.RestartPolicy, s.AppList}
}
