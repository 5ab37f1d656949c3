package netpolicy_test

import (
	"fmt"
	"testing"

	"github.com/phonehost/phonehost/netpolicy"
)

// TestPoliciesThatNobodyNames: a policy that went from the store while there was no engine leaves the kernel when no phone has it, and not before.
func TestPoliciesThatNobodyNames(t *testing.T) {
	w := newWorld(t)
	const text = "allow egress tcp 203.0.114.0/24 80\ndefault deny-all\n"
	w.policy("used", text)
	w.policy("unused", text)
	w.policy("kept", text)
	p := phone(1)
	p.Policy = "used"
	one := w.ensure(p)
	w.serve(w.server, ":80")
	w.serve(w.server, ":81")
	kernel := func(want int, when string) {
		t.Helper()
		if n, err := w.engine.KernelPolicies(); err != nil || n != want {
			t.Errorf("%s the kernel has %d policies, want %d: %v", when, n, want, err)
		}
	}
	kernel(4, "before")
	for range 2 {
		w.open() // knows neither "used" nor "unused"
		w.policy("kept", text)
		w.engine.Expect([]netpolicy.Phone{p})
		if err := w.engine.Sweep(t.Context(), []string{"p1"}); err != nil {
			t.Fatal(err)
		}
		kernel(3, "with a phone that has one of two")
		if !w.reaches(one, server4+":80") || !w.kept(one, server4+":81") {
			t.Error("p1 is not judged by the policy that it has")
		}
	}
	p.Policy = "kept"
	w.ensure(p)
	kernel(2, "after the last phone got another")
	if !w.reaches(one, server4+":80") || !w.kept(one, server4+":81") {
		t.Error("p1 is not judged by its new policy")
	}
}

// TestLocksGo: phones that came and went leave nothing behind.
func TestLocksGo(t *testing.T) {
	w := newWorld(t)
	w.ensure(phone(1))
	w.remove("p1")
	for n := range 100 {
		w.remove(fmt.Sprintf("never-%d", n))
	}
	until(t, "an engine without locks of phones", func() bool { return w.engine.Busy() == 0 })
}
