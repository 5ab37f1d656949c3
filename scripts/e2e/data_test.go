package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestData moves what a phone has stored into another by an archive, with what must be refused on the way, and kills the agent in the
// middle of an import.
func TestData(t *testing.T) {
	h := newHost(t)
	h.create("d1")
	h.ctl("run", "d1", "-c", "mkdir -p /data/media/0 && echo 'milk, bread' > /data/media/0/notes && chmod 640 /data/media/0/notes && chown 1023:1023 /data/media/0/notes && ln -s notes /data/media/0/link")
	h.ctl("run", "d1", "-c", "dd if=/dev/urandom of=/data/media/0/film bs=1048576 count=32")
	film := h.ctl("exec", "d1", "--", "sha256sum", "/data/media/0/film")
	h.create("d2")
	h.ctl("run", "d2", "-c", "echo own > /data/own")

	archive := h.path("d1.tar.zst")
	requireContains(t, h.refused(1, "data", "export", "d1", "-f", archive), "RUNNING", "phonectl off d1")
	h.ctl("off", "d1")
	h.tls("data", "export", "d1", "-f", archive) // through the tunnel
	if left, err := filepath.Glob(h.path(".d1.tar.zst.*")); err != nil || len(left) != 0 {
		t.Errorf("an export leaves %v, %v", left, err)
	}
	listed, err := exec.CommandContext(t.Context(), testenv.Tool(t, "zstd"), "-dc", archive).Output()
	if err != nil || !bytes.Contains(listed, []byte("data/media/0/notes")) {
		t.Errorf("zstd reads %d bytes without the notes, %v", len(listed), err)
	}
	requireContains(t, h.refused(1, "data", "import", "d2", archive), "RUNNING", "phonectl off d2")
	h.ctl("off", "d2")

	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 1
	for name, bad := range map[string][]byte{"damaged": damaged, "cut": whole[:len(whole)-100]} {
		file := h.path(name)
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		requireContains(t, h.refused(1, "data", "import", "d2", file), "damaged")
	}
	h.clean(1)
	h.ctl("on", "d2")
	if out := h.ctl("exec", "d2", "--", "cat", "/data/own"); out != "own\n" {
		t.Errorf("after archives that were refused the phone has %q", out)
	}
	h.ctl("off", "d2")

	h.tls("data", "import", "d2", archive)
	h.clean(2)
	h.ctl("on", "d2")
	h.imported(film)
	if usage := h.usage("d2"); usage.Generation != "2" || !usage.Live {
		t.Errorf("usage: %+v", usage)
	}
	h.ctl("data", "trim", "d1", "d2")
	h.ctl("off", "d2")
	h.ctl("data", "grow", "d2", "192MiB") // also while it runs, where the kernel allows it: runtime/volume tests that
	if usage := h.usage("d2"); usage.SizeBytes != "201326592" {
		t.Errorf("after its growth: %+v", usage)
	}

	t.Run("agent killed", func(t *testing.T) {
		h := h.in(t)
		h.ctl("reset", "d2")
		op := strings.TrimSpace(h.ctl("data", "import", "d2", archive, "--no-wait", "--request-id", "again"))
		h.killAgent()
		h.startAgent()
		h.ctl("ops", "wait", op)
		if again := strings.TrimSpace(h.ctl("data", "import", "d2", archive, "--no-wait", "--request-id", "again")); again != op {
			t.Errorf("a retry is %s, want %s", again, op)
		}
		h.clean(4)
		h.ctl("on", "d2")
		h.imported(film)
	})
}

// imported looks for what the first phone had in the second.
func (h *host) imported(film string) {
	h.t.Helper()
	if out := h.ctl("exec", "d2", "--", "cat", "/data/media/0/link"); out != "milk, bread\n" {
		h.t.Errorf("the second phone has %q", out)
	}
	requireContains(h.t, h.ctl("exec", "d2", "--", "stat", "-c", "%a %u %g", "/data/media/0/notes"), "640 1023 1023")
	if out := h.ctl("exec", "d2", "--", "sha256sum", "/data/media/0/film"); out != film {
		h.t.Errorf("the film is %q, was %q", out, film)
	}
	if out := h.ctl("exec", "d2", "--", "ls", "/data"); strings.Contains(out, "own") {
		h.t.Errorf("something of the former data is left: %q", out)
	}
}

// clean looks for what imports may leave, beside the second phone's volume of a generation.
func (h *host) clean(generation int) {
	h.t.Helper()
	spooled, err := os.ReadDir(h.path("state", "spool", "data"))
	if err != nil || len(spooled) != 0 {
		h.t.Errorf("%d archives are left on the host, %v", len(spooled), err)
	}
	volumes, err := filepath.Glob(h.path("state", "phones", "d2", "*"))
	if want := h.path("state", "phones", "d2", fmt.Sprintf("data-%d.img", generation)); err != nil || len(volumes) != 1 || volumes[0] != want {
		h.t.Errorf("the second phone has the volumes %v, %v, want %s alone", volumes, err, want)
	}
}

// usage is what `data ls` tells of a phone.
func (h *host) usage(id string) (u struct {
	Generation, SizeBytes string
	Live                  bool
}) {
	h.t.Helper()
	var answer struct{ Volumes []json.RawMessage }
	text := h.ctl("data", "ls", id, "-o", "json")
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Volumes) != 1 {
		h.t.Fatalf("data ls %s: %v in %s", id, err, text)
	}
	if err := json.Unmarshal(answer.Volumes[0], &u); err != nil {
		h.t.Fatal(err)
	}
	return u
}
