package phone

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
)

func TestNewerAndroid(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"14", "13", true}, {"13", "14", false}, {"13", "13", false}, {"8.1.0", "8.1", false}, {"8.1.1", "8.1", true}, {"10", "9", true},
		{"9", "10", false}, {"12.1", "12", true}, {"", "13", false}, {"13", "", false}, {"U", "13", false}, {"14", "T", false},
		{"14.x", "13", false}, {"-1", "0", false}, {"99999999999999999999", "1", false}, {"13.", "12", false},
	} {
		if got := newerAndroid(tt.a, tt.b); got != tt.want {
			t.Errorf("newerAndroid(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}

// imaged is an edit of a request that names an image.
func imaged(ref string) func(*Request) { return func(q *Request) { q.Image = ref } }

// shelf is the images of the tests.
func (a *agent) shelf() {
	a.images["testphone"] = Image{Digest: "sha256:1", Profile: "testphone", AndroidVersion: "13"}
	a.images["old"] = Image{Digest: "sha256:0", Profile: "testphone", AndroidVersion: "12.1"}
	a.images["new"] = Image{Digest: "sha256:2", Profile: "testphone", AndroidVersion: "14"}
	a.images["bare"] = Image{Digest: "sha256:3"}
	a.images["other"] = Image{Digest: "sha256:4", Profile: "waydroid", AndroidVersion: "13"}
}

// runs fails the test unless the phone's guest is of an image, and no root of another is left.
func (a *agent) runs(id, ref, digest string) Snapshot {
	a.t.Helper()
	snap := a.want(id, Running)
	b := a.w.Bodies[id]
	if r := snap.Record; r.Spec.Image != ref || r.ImageDigest != digest || b.Guest.ImageDigest != digest {
		a.t.Errorf("record has %s %s, the guest %s; want %s %s", r.Spec.Image, r.ImageDigest, b.Guest.ImageDigest, ref, digest)
	}
	if got := b.Roots[snap.Record.DataGeneration]; len(b.Roots) != 1 || !slices.Equal(got, []string{digest}) {
		a.t.Errorf("roots on disk: %v, want only %s", b.Roots, digest)
	}
	return snap
}

func TestRestartAndResetWithAnImage(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.shelf()
		a.on("p1")
		if snap := a.runs("p1", "testphone", "sha256:1"); snap.Record.DataAndroid != "13" {
			t.Errorf("data was used with %q", snap.Record.DataAndroid)
		}
		a.finish(a.submit(operation.Restart, "p1", imaged("new")))
		if snap := a.runs("p1", "new", "sha256:2"); snap.Record.DataAndroid != "14" || snap.Record.DataGeneration != 1 {
			t.Errorf("after a restart with another image: %+v", snap.Record)
		}
		if a.w.Count("StartDisplay") != 2 || a.w.Count("RemoveDisplay") != 0 {
			t.Error("the display did not stay")
		}
		if a.ImageUsers("testphone") != 0 || a.ImageUsers("new") != 1 {
			t.Error("the former image is still in use")
		}
		if err := a.refused(operation.Restart, "p1", fault.DataNewer, imaged("testphone")); !strings.Contains(err.Error(), "reset") {
			t.Errorf("the refusal %q does not say the way out", err)
		}
		a.refused(operation.Restart, "p1", fault.WrongProfile, imaged("other"))
		a.refused(operation.Reset, "p1", fault.WrongProfile, imaged("other"))
		a.refused(operation.Restart, "p1", fault.NoSuchImage, imaged("nothing"))
		a.refused(operation.Reset, "p1", fault.NoSuchImage, imaged("nothing"))
		if err := a.refused(operation.Restart, "p1", fault.InvalidField, imaged("a b")); fault.Meta(err)["field"] != "image" {
			t.Errorf("a bad reference: %v", err)
		}
		a.refused(operation.Restart, "p1", fault.InvalidField, imaged(strings.Repeat("x", 513)))
		a.runs("p1", "new", "sha256:2")

		a.finish(a.submit(operation.Reset, "p1", imaged("old"))) // there is no data that could be newer
		if snap := a.runs("p1", "old", "sha256:0"); snap.Record.DataAndroid != "12.1" || snap.Record.DataGeneration != 2 {
			t.Errorf("after a reset to an older image: %+v", snap.Record)
		}
		a.finish(a.submit(operation.Restart, "p1", imaged("bare"))) // says nothing, so nothing is known against it
		if snap := a.runs("p1", "bare", "sha256:3"); snap.Record.DataAndroid != "12.1" {
			t.Errorf("an image without a version made the data %q", snap.Record.DataAndroid)
		}
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		a.finish(a.submit(operation.Reset, "p1", imaged("new")))
		if snap := a.want("p1", PoweredOff); snap.Record.ImageDigest != "sha256:2" || snap.Record.DataAndroid != "" || len(a.w.Bodies["p1"].Roots) != 1 {
			t.Errorf("a reset while off: %+v %+v", snap.Record, a.w.Bodies["p1"].Roots)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.runs("p1", "new", "sha256:2")
	})
}

// TestImageOfAnotherProfile restarts and resets a phone that was created with another profile than its image names.
func TestImageOfAnotherProfile(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.shelf()
		a.images["labelled"] = Image{Digest: "sha256:5", Profile: "redroid"}
		a.images["labelled:2"] = Image{Digest: "sha256:6", Profile: "redroid"}
		a.images["own"] = Image{Digest: "sha256:7", Profile: "redroid-sysboot"}
		if _, err := a.Create(t.Context(), Spec{ID: "p1", Image: "labelled", Profile: "redroid-sysboot", MemoryBytes: 256 << 20}); err != nil {
			t.Fatal(err)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.do(operation.Reset, "p1", operation.Succeeded)
		a.finish(a.submit(operation.Restart, "p1", imaged("labelled:2")))
		a.runs("p1", "labelled:2", "sha256:6")
		a.refused(operation.Restart, "p1", fault.WrongProfile, imaged("other"))
		a.finish(a.submit(operation.Restart, "p1", imaged("own")))
		a.runs("p1", "own", "sha256:7")
		a.refused(operation.Restart, "p1", fault.WrongProfile, imaged("labelled")) // the override is over
	})
}

// TestRestartTakesThePresentContent restarts with the image's own name after its content has changed.
func TestRestartTakesThePresentContent(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.shelf()
		a.on("p1")
		a.images["testphone"] = Image{Digest: "sha256:9", Profile: "testphone", AndroidVersion: "13"}
		a.do(operation.Restart, "p1", operation.Succeeded)
		a.runs("p1", "testphone", "sha256:1")
		a.finish(a.submit(operation.Restart, "p1", imaged("testphone")))
		a.runs("p1", "testphone", "sha256:9")
	})
}

// TestImageChangesOverAgents has the agent die at each call of a restart and of a reset with another image.
func TestImageChangesOverAgents(t *testing.T) {
	for kind, calls := range map[operation.Kind][]string{
		operation.Restart: {"Shutdown", "RemoveGuest", "Prepare", "StartDisplay", "StartGuest"},
		operation.Reset:   {"Kill", "RemoveGuest", "Prepare", "StartGuest", "KeepGeneration"},
	} {
		for _, call := range calls {
			for _, side := range []string{" before", " after"} {
				t.Run(kind.String()+"/"+call+side, func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "db")
					synctest.Test(t, func(t *testing.T) {
						w := phonetest.New()
						a := startAgent(t, w, path, nil)
						a.shelf()
						a.on("p1")
						died := make(chan struct{})
						w.Lock()
						w.Hook = die(call+side, died)
						w.Unlock()
						op := a.submit(kind, "p1", imaged("new"))
						select {
						case <-died:
						case <-time.After(time.Minute):
							t.Fatalf("%s was never reached", call)
						}
						w.Lock()
						w.Hook = nil
						w.Unlock()
						a.stop()
						a = startAgent(t, w, path, nil)
						defer func() { a.stop() }()
						if r := a.finish(op); r.State != operation.Succeeded {
							t.Errorf("%s: %+v", kind, r.Failure)
						}
						a.runs("p1", "new", "sha256:2")
					})
				})
			}
		}
	}
}

// TestImageThatDoesNotBoot has the guest of a newer image touch the data and not boot: the way back is barred all the same.
func TestImageThatDoesNotBoot(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.shelf()
		a.on("p1")
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		if r := a.finish(a.submit(operation.Restart, "p1", imaged("new"))); r.Failure == nil || r.Failure.Reason != "BOOT_TIMEOUT" {
			t.Fatalf("restart: %+v", r)
		}
		if snap := a.want("p1", Stopped); snap.Record.DataAndroid != "14" {
			t.Errorf("data was used with %q", snap.Record.DataAndroid)
		}
		a.w.Set(phonetest.Manner{})
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.refused(operation.Restart, "p1", fault.DataNewer, imaged("testphone"))
		a.finish(a.submit(operation.Reset, "p1", imaged("testphone")))
		a.runs("p1", "testphone", "sha256:1")
	})
}
