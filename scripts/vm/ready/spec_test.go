package ready

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSpec(t *testing.T) {
	for _, tt := range []struct {
		spec Spec
		name string
		bad  string // what the error says; "" is none
	}{
		{Spec{Series: "6.12", Arch: "arm64"}, "6.12-arm64", ""},
		{Spec{Series: "6.1", Arch: "amd64", System: true, Variants: []Variant{NoPSI, CgroupV1}}, "6.1-amd64-system-nopsi-cgroupv1", ""},
		{Spec{Series: "6.12", Arch: "amd64", Variants: []Variant{PreemptFull}}, "6.12-amd64-preemptfull", ""},
		{Spec{Series: "6.12", Arch: "riscv64"}, "6.12-riscv64", "amd64, arm64"},
		{Spec{Arch: "arm64"}, "-arm64", "kernel series"},
		{Spec{Series: "6.12", Arch: "arm64", Variants: []Variant{PreemptFull}}, "6.12-arm64-preemptfull", "preempt="},
		{Spec{Series: "6.1", Arch: "amd64", Variants: []Variant{NoPSI, MultiPlanar}}, "6.1-amd64-nopsi-multiplanar", "no vicodec"},
		{Spec{Series: "6.1", Arch: "arm64", System: true, Variants: []Variant{Firewalls}}, "6.1-arm64-system-firewalls", ""},
		{Spec{Series: "6.1", Arch: "arm64", Variants: []Variant{Firewalls}}, "6.1-arm64-firewalls", "only a system machine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.spec.String(); got != tt.name {
				t.Errorf("it is called %q", got)
			}
			err := tt.spec.Check()
			if errdefs.IsInvalidArgument(err) != (tt.bad != "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("error %v, want one with %q", err, tt.bad)
			}
		})
	}
}

func TestParseVariant(t *testing.T) {
	for _, v := range Variants() {
		if got, err := ParseVariant(v.Name()); got != v || err != nil {
			t.Errorf("%s is %v, %v", v, got, err)
		}
	}
	_, err := ParseVariant("noPSI")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "nobpflsm, preemptfull, nopsi, cgroupv1, novicodec, multiplanar, firewalls, counted") {
		t.Errorf("a variant that does not exist: %v", err)
	}
}

func TestTogether(t *testing.T) {
	all := together(Variants())
	if all.Name != "nobpflsm-preemptfull-nopsi-cgroupv1-novicodec-multiplanar-firewalls-counted" || !all.CgroupV1 || !all.Counted || all.Modules["vicodec"] != "multiplanar=1" ||
		strings.Join(all.Cmdline, " ") != "preempt=full psi=0" || strings.Join(all.LSM, " ") != "landlock yama apparmor" || strings.Join(all.Without, " ") != "vicodec" {
		t.Errorf("all variants together are %+v", all)
	}
}
