package phone

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/container"
)

// Hold reasons.
const (
	// HoldCrashLoop means that the guest crashed too often.
	HoldCrashLoop = "CRASH_LOOP"
	// HoldBootFailed means that the guest did not report boot completed in time.
	HoldBootFailed = "BOOT_FAILED"
	// HoldStartFailed means that the guest or its display could not be started.
	HoldStartFailed = "START_FAILED"
)

// Hold is a durable stop sign: the controller does not start the phone until the next PowerOn, Restart or Reset.
type Hold struct {
	// Reason is HoldCrashLoop, HoldBootFailed or HoldStartFailed.
	Reason string `json:"reason"`
	// Message says what was last seen.
	Message string `json:"message"`
	// Since is when the controller stopped trying.
	Since time.Time `json:"since"`
}

// Task is the operation that is under way for a phone.
type Task struct {
	// OperationID names it.
	OperationID string `json:"operation_id"`
	// Kind is what it does.
	Kind operation.Kind `json:"kind"`
	// Failure is how it will end once the phone is off; nil while it may still succeed.
	Failure *operation.Failure `json:"failure,omitempty"`
}

// Stop says how a guest that must end is ended.
type Stop struct {
	// At is when it was asked for.
	At time.Time `json:"at,omitzero"`
	// Grace is how long after At the guest is killed; zero means at once.
	Grace time.Duration `json:"grace,omitempty"`
}

// Start is what was learned when a guest's init was started.
type Start struct {
	// Generation is the boot generation that was started; 0 means none ever was.
	Generation uint64 `json:"generation,omitempty"`
	// HostBoot is the kernel's boot id then: another one now means that the host's restart ended the guest.
	HostBoot string `json:"host_boot,omitempty"`
	// At is when it was; zero if that was not seen, or by a release that did not keep it.
	At time.Time `json:"at,omitzero"`
}

// Boot is what was learned when a guest reported boot completed.
type Boot struct {
	// Generation is the boot generation that reported it; 0 means none ever has.
	Generation uint64 `json:"generation,omitempty"`
	// Time is when it did.
	Time time.Time `json:"time,omitzero"`
	// Duration is how long it took from the start of init.
	Duration time.Duration `json:"duration,omitempty"`
}

// Record is what is stored of a phone: what it is, what it should be doing, and what happened to it. It never says what the phone
// is doing: that is observed.
type Record struct {
	// Spec is what was asked for at creation, with every default filled in.
	Spec Spec `json:"spec"`
	// Slot is a small number that no other phone has.
	Slot uint32 `json:"slot"`
	// CreateTime is when the phone was created.
	CreateTime time.Time `json:"create_time"`
	// ImageDigest is the content that the root file system is made from; it changes by Reset, and by a Restart with an image.
	ImageDigest string `json:"image_digest"`
	// ImageAndroid is the Android version that the image names, or empty; ImageProfile the profile, where that is not the spec's.
	ImageAndroid string `json:"image_android,omitempty"`
	ImageProfile string `json:"image_profile,omitempty"`
	// IPv4 and IPv6 are the phone's addresses, as long as it exists; the zero value where the host has no pool for them.
	IPv4 netip.Addr `json:"ipv4,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	// NetworkCut is whether it is cut off the network.
	NetworkCut bool `json:"network_cut,omitempty"`
	// CloneOf is the phone that the data was copied from, or empty.
	CloneOf string `json:"clone_of,omitempty"`

	// On is whether the phone should run. Hold and Deleting go before it.
	On bool `json:"on"`
	// OffAsked is whether someone asked for off, through the API or inside the guest: POWERED_OFF instead of STOPPED.
	OffAsked bool `json:"off_asked,omitempty"`
	// OffReason says why the phone is off where nobody asked for it.
	OffReason string `json:"off_reason,omitempty"`
	// Hold is set while the controller does not try.
	Hold *Hold `json:"hold,omitempty"`
	// Freezes holds the reasons for which the phone must not run, each once, in the order of their numbers. While there is any, On is
	// false.
	Freezes []Freeze `json:"freezes,omitempty"`
	// Deleting is whether the phone and all that belongs to it must go.
	Deleting bool `json:"deleting,omitempty"`
	// BootGeneration is the boot that should run; it grows with every boot that is asked for or follows an exit. A guest of another
	// generation must end.
	BootGeneration uint64 `json:"boot_generation"`
	// DataGeneration is the root file system and data volume that should be used, from 1; it grows with every reset and import.
	DataGeneration uint64 `json:"data_generation"`
	// Stop says how a guest that must end is ended.
	Stop Stop `json:"stop,omitzero"`
	// Task is the operation under way, or nil.
	Task *Task `json:"task,omitempty"`
	// Change is the Update under way, which goes on beside Task, or nil.
	Change *Task `json:"change,omitempty"`
	// Readers holds the phones that are being made from this one's data, each with its operation. While there is any, the phone must
	// not be started, reset or deleted.
	Readers map[string]string `json:"readers,omitempty"`
	// Import is the archive that is to become the phone's data, until it has been removed, or nil.
	Import *Import `json:"import,omitempty"`
	// LastGeneration is the newest data generation that an import was to become.
	LastGeneration uint64 `json:"last_generation,omitempty"`
	// BootAsked is when the present boot generation was asked for: phones wait for their boot slots in this order.
	BootAsked time.Time `json:"boot_asked,omitzero"`
	// LimitsAsked counts the changes of what a running guest may use; LimitsSet is the last that the running guest has.
	LimitsAsked uint64 `json:"limits_asked,omitempty"`
	LimitsSet   uint64 `json:"limits_set,omitempty"`
	// GrowFrom is the size that the data volume has for certain, while it is to grow to the spec's; else 0.
	GrowFrom uint64 `json:"grow_from,omitempty"`

	// KeptGeneration is the newest data generation for which all others have been removed; 0 since an import began that may have left
	// something of another.
	KeptGeneration uint64 `json:"kept_generation"`
	// Started is the newest start of a guest.
	Started Start `json:"started,omitzero"`
	// Booted is the newest completed boot.
	Booted Boot `json:"booted,omitzero"`
	// DataAndroid is the newest Android version that a guest was started with on the data, or empty.
	DataAndroid string `json:"data_android,omitempty"`
	// Ended is the newest boot generation whose guest ended and was dealt with.
	Ended uint64 `json:"ended,omitempty"`
	// Crashes holds when the guest crashed lately, oldest first.
	Crashes []time.Time `json:"crashes,omitempty"`
	// Starved holds those of Crashes that were for want of memory.
	Starved []time.Time `json:"starved,omitempty"`
	// LastFailure is the last operation that failed, until one of the same kind succeeds, or the last want of memory (its kind is 0),
	// until a start succeeds.
	LastFailure *operation.Failure `json:"last_failure,omitempty"`
}

// records is the bucket of the phones.
var records = store.Table[Record]{Bucket: store.Phones, What: "phone"}

// clone returns a copy that shares nothing that changes.
func (r *Record) clone() Record {
	c := *r
	c.Crashes, c.Starved = slices.Clone(r.Crashes), slices.Clone(r.Starved)
	for _, task := range []**Task{&c.Task, &c.Change} {
		if *task != nil {
			copied := **task
			*task = &copied
		}
	}
	return c
}

// taskIs reports whether an operation of a kind is under way.
func (r *Record) taskIs(kind operation.Kind) bool { return r.Task != nil && r.Task.Kind == kind }

// wantsGuest reports whether a guest should run.
func (r *Record) wantsGuest() bool { return r.On && r.Hold == nil && !r.Deleting && !r.frozen() }

// booted reports whether the wanted boot has completed.
func (r *Record) booted() bool {
	return r.Booted.Generation == r.BootGeneration && r.BootGeneration > 0
}

// boot asks for the next boot generation.
func (r *Record) boot(now time.Time) {
	r.BootGeneration++
	r.BootAsked = now
}

// forgetCrashes begins the count of crashes anew.
func (r *Record) forgetCrashes() { r.Crashes, r.Starved = nil, nil }

// deadline is when the guest is killed.
func (s Stop) deadline() time.Time { return s.At.Add(s.Grace) }

// turnOff drops the wish for a guest. asked tells whether someone wanted it.
func (r *Record) turnOff(asked bool, reason string) {
	r.On, r.OffAsked, r.OffReason, r.Hold = false, asked, reason, nil
}

// fail marks the operation under way, if there is one, to end with a failure once the phone is off.
func (r *Record) fail(f operation.Failure) {
	if r.Task == nil || r.Task.Failure != nil {
		return
	}
	task := *r.Task
	f.Kind = task.Kind
	task.Failure = &f
	r.Task = &task
}

// container returns the phone in the engine's words, as its next start uses it.
func (r *Record) container() container.Phone {
	s := r.Spec
	return container.Phone{
		ID: s.ID, Slot: r.Slot, Image: s.Image, ImageDigest: r.ImageDigest, Profile: s.Profile,
		VCPUs: s.VCPUs, CPUWeight: s.CPUWeight, MemoryBytes: s.MemoryBytes, DataBytes: s.DataBytes,
		Display:        container.DisplaySpec{Width: s.Display.Width, Height: s.Display.Height, DPI: s.Display.DPI, FPS: s.Display.MaxFPS},
		Properties:     maps.Clone(s.Properties),
		DataGeneration: r.DataGeneration, BootGeneration: r.BootGeneration, Note: s.note(),
	}
}
