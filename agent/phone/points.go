package phone

import (
	"context"
	"io"
	"time"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/crashpoint"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// pointOfStep marks a boundary of a controller's step.
func pointOfStep(s step, side string) {
	if crashpoint.Enabled {
		crashpoint.Reached("step/" + s.String() + "/" + side)
	}
}

// withPoints puts crash points around every call to the world, in programs that have any. The wrappers name every method, so that a new
// method of an interface does not compile before it has its points.
func (c Config) withPoints() Config {
	if !crashpoint.Enabled {
		return c
	}
	c.Runtime, c.Volumes, c.Archives = runtimePoints{c.Runtime}, volumePoints{c.Volumes}, archivePoints{c.Archives}
	c.Networks, c.Displays, c.Images = networkPoints{c.Networks}, displayPoints{c.Displays}, imagePoints{c.Images}
	c.AppLists = appListPoints{c.AppLists}
	return c
}

// around makes a call between its two points. A test may have the call fail, without being made or after it.
func around(name string, call func() error) error {
	if err := crashpoint.Fail("call/" + name + "/before"); err != nil {
		return err
	}
	if err := call(); err != nil {
		return err
	}
	return crashpoint.Fail("call/" + name + "/after")
}

type runtimePoints struct{ in Runtime }

var _ Runtime = runtimePoints{}

func (p runtimePoints) Prepare(ctx context.Context, ph container.Phone) error {
	return around("Prepare", func() error { return p.in.Prepare(ctx, ph) })
}

func (p runtimePoints) StartDisplay(ctx context.Context, ph container.Phone) error {
	return around("StartDisplay", func() error { return p.in.StartDisplay(ctx, ph) })
}

func (p runtimePoints) StartGuest(ctx context.Context, ph container.Phone) error {
	return around("StartGuest", func() error { return p.in.StartGuest(ctx, ph) })
}

func (p runtimePoints) Shutdown(ctx context.Context, id string) error {
	return around("Shutdown", func() error { return p.in.Shutdown(ctx, id) })
}

func (p runtimePoints) Kill(ctx context.Context, id string, role container.Role) error {
	return around("Kill", func() error { return p.in.Kill(ctx, id, role) })
}

func (p runtimePoints) RemoveGuest(ctx context.Context, id string) error {
	return around("RemoveGuest", func() error { return p.in.RemoveGuest(ctx, id) })
}

func (p runtimePoints) RemoveDisplay(ctx context.Context, id string) error {
	return around("RemoveDisplay", func() error { return p.in.RemoveDisplay(ctx, id) })
}

func (p runtimePoints) SetLimits(ctx context.Context, ph container.Phone) error {
	return around("SetLimits", func() error { return p.in.SetLimits(ctx, ph) })
}

func (p runtimePoints) KeepGeneration(ctx context.Context, id string, keep uint64) error {
	return around("KeepGeneration", func() error { return p.in.KeepGeneration(ctx, id, keep) })
}

func (p runtimePoints) Destroy(ctx context.Context, id string) error {
	return around("Destroy", func() error { return p.in.Destroy(ctx, id) })
}

func (p runtimePoints) Observe(ctx context.Context, id string) (o container.Observation, err error) {
	err = around("Observe", func() (err error) { o, err = p.in.Observe(ctx, id); return err })
	return o, err
}

func (p runtimePoints) IDs(ctx context.Context) (ids []string, err error) {
	err = around("IDs", func() (err error) { ids, err = p.in.IDs(ctx); return err })
	return ids, err
}

// Events has no points: it is called once, at start, and each event is followed by an Observe.
func (p runtimePoints) Events(ctx context.Context) <-chan container.Event { return p.in.Events(ctx) }

func (p runtimePoints) BootCompleted(ctx context.Context, id string) (done bool, seen string, err error) {
	err = around("BootCompleted", func() (err error) { done, seen, err = p.in.BootCompleted(ctx, id); return err })
	return done, seen, err
}

func (p runtimePoints) LogTail(ctx context.Context, id string, role container.Role, since time.Time, limit int) (text string, err error) {
	err = around("LogTail", func() (err error) { text, err = p.in.LogTail(ctx, id, role, since, limit); return err })
	return text, err
}

type volumePoints struct{ in Volumes }

var _ Volumes = volumePoints{}

func (p volumePoints) GrowData(ctx context.Context, ph container.Phone) error {
	return around("GrowData", func() error { return p.in.GrowData(ctx, ph) })
}

func (p volumePoints) CloneData(ctx context.Context, from, to container.Phone) (shared bool, err error) {
	err = around("CloneData", func() (err error) { shared, err = p.in.CloneData(ctx, from, to); return err })
	return shared, err
}

func (p volumePoints) CheckData(ctx context.Context, ph container.Phone) (found volume.Report, err error) {
	err = around("CheckData", func() (err error) { found, err = p.in.CheckData(ctx, ph); return err })
	return found, err
}

func (p volumePoints) BootReason(ctx context.Context, ph container.Phone) (reason profile.BootReason, err error) {
	err = around("BootReason", func() (err error) { reason, err = p.in.BootReason(ctx, ph); return err })
	return reason, err
}

func (p volumePoints) ImportData(ctx context.Context, ph container.Phone, r io.Reader) (m archive.Manifest, err error) {
	err = around("ImportData", func() (err error) { m, err = p.in.ImportData(ctx, ph, r); return err })
	return m, err
}

func (p volumePoints) TrimData(ctx context.Context, ph container.Phone) (bytes uint64, err error) {
	err = around("TrimData", func() (err error) { bytes, err = p.in.TrimData(ctx, ph); return err })
	return bytes, err
}

type archivePoints struct{ in Archives }

var _ Archives = archivePoints{}

func (p archivePoints) Open(name string) (f io.ReadCloser, err error) {
	err = around("OpenArchive", func() (err error) { f, err = p.in.Open(name); return err })
	return f, err
}

func (p archivePoints) Remove(name string) error {
	return around("RemoveArchive", func() error { return p.in.Remove(name) })
}

type networkPoints struct{ in Networks }

var _ Networks = networkPoints{}

func (p networkPoints) Ensure(ctx context.Context, ph netpolicy.Phone) error {
	return around("EnsureNetwork", func() error { return p.in.Ensure(ctx, ph) })
}

func (p networkPoints) Remove(ctx context.Context, id string) error {
	return around("RemoveNetwork", func() error { return p.in.Remove(ctx, id) })
}

func (p networkPoints) List() (ids []string, err error) {
	err = around("ListNetworks", func() (err error) { ids, err = p.in.List(); return err })
	return ids, err
}

// CheckForward changes nothing, so a crash beside it is as good as one before the next step.
func (p networkPoints) CheckForward(ctx context.Context, f netpolicy.Forward) error {
	return p.in.CheckForward(ctx, f)
}

type appListPoints struct{ in AppLists }

var _ AppLists = appListPoints{}

func (p appListPoints) Ready(ctx context.Context, id string) error {
	return around("AppListReady", func() error { return p.in.Ready(ctx, id) })
}

func (p appListPoints) Forget(ctx context.Context, id string) error {
	return around("AppListForget", func() error { return p.in.Forget(ctx, id) })
}

type displayPoints struct{ in Displays }

var _ Displays = displayPoints{}

func (p displayPoints) Track(id string) error {
	return around("Track", func() error { return p.in.Track(id) })
}

func (p displayPoints) WaitReady(ctx context.Context, id string) error {
	return around("WaitReady", func() error { return p.in.WaitReady(ctx, id) })
}

func (p displayPoints) Close(id string) {
	crashpoint.Reached("call/CloseDisplay/before")
	p.in.Close(id)
	crashpoint.Reached("call/CloseDisplay/after")
}

func (p displayPoints) HasContent(id string) bool { return p.in.HasContent(id) }

type imagePoints struct{ in Images }

var _ Images = imagePoints{}

func (p imagePoints) Image(ctx context.Context, ref string) (img Image, err error) {
	err = around("Image", func() (err error) { img, err = p.in.Image(ctx, ref); return err })
	return img, err
}
