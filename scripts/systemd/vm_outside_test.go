package systemd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMWithoutTheHolder has phones start while the holder is masked: the agent works below /phonehost and says what that means. Then
// the holder is there and the agent uses its scope: the phones stay whole where they are, until they start again.
func TestVMWithoutTheHolder(t *testing.T) {
	vm.Each(t, vm.On("6.12").System().Nightly(), func(t *testing.T, m *vm.Machine) {
		h := newHost(t, m, "systemctl mask phonehost-phones.service; systemctl enable --now phonehostd", "p1", "p2")
		h.wantLog("root=" + plain + " delegated=false")
		h.wantWarning("cgroup-not-delegated")
		outside := place{root: plain}
		p1, p2 := h.phone(outside, "p1"), h.phone(outside, "p2")

		h.Shell("systemctl unmask phonehost-phones.service; systemctl start phonehost-phones.service; systemctl restart phonehostd; systemctl daemon-reload")
		h.wantLog("root=" + scope + " delegated=true")
		h.wantWarning("phones-outside-cgroup", scope, "another: 2", "phonectl restart p1 p2")
		if diff := cmp.Diff([]phone{p1, p2}, []phone{h.phone(outside, "p1"), h.phone(outside, "p2")}); diff != "" {
			t.Errorf("the phones are others (-before +after):\n%s", diff)
		}
		t.Run("display that ends", func(t *testing.T) { h.in(t).testDisplayOutside(outside, p1) })
		t.Run("restart of a phone", func(t *testing.T) { h.in(t).testMove(p1) })
		t.Run("stop of the target", func(t *testing.T) { h.in(t).testEndOutside(p2) })
	}, machine()...)
}

// wantWarning looks for a standing warning with all of these texts, and for it among the doctor's findings.
func (h *host) wantWarning(name string, texts ...string) {
	h.t.Helper()
	for _, from := range [][]string{{"phonectl", "host"}, {"phonectl", "doctor"}} {
		out := h.Run(from...)
		for _, text := range append(texts, name) {
			if !strings.Contains(out, text) {
				h.t.Errorf("%s does not say %q:\n%s", strings.Join(from, " "), text, out)
			}
		}
	}
}

// testDisplayOutside kills the display of a phone that runs outside: the next one starts beside the guest.
func (h *host) testDisplayOutside(outside place, before phone) {
	h.t.Helper()
	h.Shell("kill -9 " + before.Display + `
		until read -r pid < ` + outside.file("p1", "display/cgroup.procs", "pids") + ` && [ $pid != ` + before.Display + ` ]; do sleep 0.2; done 2>/dev/null`)
	after := h.phone(outside, "p1")
	if after.Display == before.Display || after.Init != before.Init {
		h.t.Errorf("before %+v, after %+v", before, after)
	}
}

// testMove starts a phone again that ran outside: it is in the scope as a whole, and the warning names the other one alone.
func (h *host) testMove(before phone) {
	h.t.Helper()
	h.Shell("phonectl restart p1; ! ls -d " + place{root: plain}.file("p1", "", ""))
	if after := h.phone(place{root: scope}, "p1"); after.Init == before.Init {
		h.t.Errorf("before %+v, after %+v", before, after)
	}
	h.wantWarning("phones-outside-cgroup", "another: 1", "phonectl restart p2")
}

// testEndOutside stops the target: a guest outside shuts down in order too, and the next agent starts it in the scope.
func (h *host) testEndOutside(before phone) {
	h.t.Helper()
	count := h.shutdowns("p2")
	h.stopTarget(before.Init, before.Display)
	if got := h.shutdowns("p2"); got != count+1 {
		h.t.Errorf("the guest has shut down %d times, want %d", got, count+1)
	}
	h.Shell("systemctl start phonehostd")
	h.wantRunning("p2")
	h.phone(place{root: scope}, "p2")
	h.Shell("rmdir /sys/fs/cgroup" + plain)
	if out := h.Run("phonectl", "host"); strings.Contains(out, "phones-outside-cgroup") || strings.Contains(out, "cgroup-not-delegated") {
		h.t.Errorf("there are still warnings:\n%s", out)
	}
}
