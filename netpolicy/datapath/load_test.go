package datapath

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestProgramsLoad(t *testing.T) {
	testenv.Root(t)
	var objects bpfObjects
	if err := loadBpfObjects(&objects, nil); err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			l := refused.Log
			if len(l) > 40 {
				l = l[len(l)-40:]
			}
			for _, x := range l {
				t.Log(x)
			}
			t.Fatalf("%v", err)
		}
		t.Fatal(err)
	}
	defer objects.Close()
	for name, p := range map[string]*ebpf.Program{"from_phone": objects.FromPhone, "to_phone": objects.ToPhone, "judge": objects.Judge} {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := info.VerifiedInstructions()
		t.Logf("%s: %d verified instructions", name, n)
	}
}
