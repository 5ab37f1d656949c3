package phone

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

var testHost = Capacity{CPUs: 4, MemoryBytes: 8 << 30}

func validSpec() Spec {
	return Spec{ID: "p1", Image: "testphone", Profile: "testphone", MemoryBytes: 512 << 20}.WithDefaults(testHost)
}

func TestDefaults(t *testing.T) {
	want := Spec{
		ID: "p1", Image: "testphone", Profile: "testphone", VCPUs: 2, CPUWeight: 100, MemoryBytes: 512 << 20, DataBytes: 4 << 30,
		Display: Display{Width: 720, Height: 1280, DPI: 320, MaxFPS: 30}, RestartPolicy: Always,
		Network: Network{Policy: "allow-internet"},
	}
	if diff := cmp.Diff(want, validSpec(), addresses); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if got := (Spec{}).WithDefaults(Capacity{CPUs: 1}).VCPUs; got != 1 {
		t.Errorf("vcpus on a host of one core: %g, want 1", got)
	}
	if got := (Spec{DataBytes: 64<<20 + 1}).WithDefaults(testHost).DataBytes; got != 64<<20+4096 {
		t.Errorf("data size is %d, want it rounded up to 4096", got)
	}
}

func TestValidate(t *testing.T) {
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("k%d", i)] = "v"
		}
		return m
	}
	tests := []struct {
		name  string
		edit  func(*Spec)
		field string // "" means valid
	}{
		{"valid", func(*Spec) {}, ""},
		{"id of one letter", func(s *Spec) { s.ID = "a" }, ""},
		{"id of 32", func(s *Spec) { s.ID = strings.Repeat("a", 32) }, ""},
		{"no id", func(s *Spec) { s.ID = "" }, "spec.id"},
		{"long id", func(s *Spec) { s.ID = strings.Repeat("a", 33) }, "spec.id"},
		{"capitals", func(s *Spec) { s.ID = "P1" }, "spec.id"},
		{"hyphen first", func(s *Spec) { s.ID = "-a" }, "spec.id"},
		{"hyphen last", func(s *Spec) { s.ID = "a-" }, "spec.id"},
		{"two hyphens", func(s *Spec) { s.ID = "a--b" }, "spec.id"},
		{"path as id", func(s *Spec) { s.ID = "../a" }, "spec.id"},
		{"line end in id", func(s *Spec) { s.ID = "a\n" }, "spec.id"},
		{"no image", func(s *Spec) { s.Image = "" }, "spec.image"},
		{"long image", func(s *Spec) { s.Image = strings.Repeat("a", 513) }, "spec.image"},
		{"few vcpus", func(s *Spec) { s.VCPUs = 0.05 }, "spec.vcpus"},
		{"many vcpus", func(s *Spec) { s.VCPUs = 4.5 }, "spec.vcpus"},
		{"negative vcpus", func(s *Spec) { s.VCPUs = -1 }, "spec.vcpus"},
		{"vcpus not a number", func(s *Spec) { s.VCPUs = math.NaN() }, "spec.vcpus"},
		{"weight", func(s *Spec) { s.CPUWeight = 10001 }, "spec.cpu_weight"},
		{"memory 0", func(s *Spec) { s.MemoryBytes = 0 }, "spec.memory_bytes"},
		{"memory over the host's", func(s *Spec) { s.MemoryBytes = 9 << 30 }, "spec.memory_bytes"},
		{"small data", func(s *Spec) { s.DataBytes = 1 << 20 }, "spec.data_bytes"},
		{"huge data", func(s *Spec) { s.DataBytes = math.MaxUint64 }, "spec.data_bytes"},
		{"odd width", func(s *Spec) { s.Display.Width = 721 }, "spec.display.width"},
		{"narrow", func(s *Spec) { s.Display.Width = 238 }, "spec.display.width"},
		{"absurd height", func(s *Spec) { s.Display.Height = math.MaxUint32 }, "spec.display.height"},
		{"4096 x 4096", func(s *Spec) { s.Display.Width, s.Display.Height = 4096, 4096 }, "spec.display"},
		{"3840 x 2160", func(s *Spec) { s.Display.Width, s.Display.Height = 3840, 2160 }, ""},
		{"dpi", func(s *Spec) { s.Display.DPI = 71 }, "spec.display.dpi"},
		{"fps", func(s *Spec) { s.Display.MaxFPS = 121 }, "spec.display.max_fps"},
		{"policy", func(s *Spec) { s.RestartPolicy = 9 }, "spec.restart_policy"},
		{"256 properties", func(s *Spec) { s.Properties = many(256) }, ""},
		{"257 properties", func(s *Spec) { s.Properties = many(257) }, "spec.properties"},
		{"property name", func(s *Spec) { s.Properties = map[string]string{"a b": "c"} }, "spec.properties"},
		{"property value", func(s *Spec) { s.Properties = map[string]string{"a": strings.Repeat("x", 257)} }, "spec.properties"},
		{"property of two lines", func(s *Spec) { s.Properties = map[string]string{"a": "b\nc=d"} }, "spec.properties"},
		{"65 labels", func(s *Spec) { s.Labels = many(65) }, "spec.labels"},
		{"label name", func(s *Spec) { s.Labels = map[string]string{"": "c"} }, "spec.labels"},
		{"policy of phones", func(s *Spec) { s.Network.Policy = "School" }, "spec.network.policy"},
		{"upload", func(s *Spec) { s.Network.UpBits = 63_999 }, "spec.network.up_bits_per_second"},
		{"download", func(s *Spec) { s.Network.DownBits = MaxBits + 1 }, "spec.network.down_bits_per_second"},
		{"a forward", func(s *Spec) { s.Network.Forwards = []Forward{forward("127.0.0.1:6001", policy.TCP, 5555)} }, ""},
		{"forward of ICMP", func(s *Spec) { s.Network.Forwards = []Forward{forward("127.0.0.1:6001", policy.ICMP, 5555)} }, "spec.network.forwards[0].protocol"},
		{"forward without a port", func(s *Spec) { s.Network.Forwards = []Forward{forward("127.0.0.1:0", policy.TCP, 5555)} }, "spec.network.forwards[0].listen"},
		{"forward to no port", func(s *Spec) { s.Network.Forwards = []Forward{forward("127.0.0.1:1", policy.TCP, 0)} }, "spec.network.forwards[0].port"},
		{"forward of a group", func(s *Spec) { s.Network.Forwards = []Forward{forward("224.0.0.1:1", policy.UDP, 1)} }, "spec.network.forwards[0].listen"},
		{"forward of IPv6 loopback", func(s *Spec) { s.Network.Forwards = []Forward{forward("[::1]:1", policy.UDP, 1)} }, "spec.network.forwards[0].listen"},
		{"forward of a mapped address", func(s *Spec) { s.Network.Forwards = []Forward{forward("[::ffff:127.0.0.1]:1", policy.UDP, 1)} }, "spec.network.forwards[0].listen"},
		{"forwards that collide", func(s *Spec) {
			s.Network.Forwards = []Forward{forward("127.0.0.1:6001", policy.TCP, 5555), forward("0.0.0.0:6001", policy.TCP, 5556)}
		}, "spec.network.forwards[1].listen"},
		{"forwards that do not", func(s *Spec) {
			s.Network.Forwards = []Forward{forward("127.0.0.1:6001", policy.TCP, 5555), forward("127.0.0.2:6001", policy.TCP, 5555), forward("127.0.0.1:6001", policy.UDP, 5555)}
		}, ""},
		{"65 forwards", func(s *Spec) {
			for port := range uint16(65) {
				s.Network.Forwards = append(s.Network.Forwards, Forward{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 1+port), policy.TCP, 1})
			}
		}, "spec.network.forwards"},
		{"label value", func(s *Spec) { s.Labels = map[string]string{"a": strings.Repeat("x", 257)} }, "spec.labels"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := validSpec()
			tt.edit(&s)
			err := s.Validate(testHost)
			if got := fault.Meta(err)["field"]; got != tt.field {
				t.Fatalf("error %v names field %q, want %q", err, got, tt.field)
			}
			if err != nil && (!errdefs.IsInvalidArgument(err) || fault.Reason(err) != fault.InvalidField) {
				t.Errorf("error %v has class or reason wrong", err)
			}
		})
	}
}

func TestSpecEqual(t *testing.T) {
	a := validSpec()
	for name, edit := range map[string]func(*Spec){
		"memory":   func(s *Spec) { s.MemoryBytes++ },
		"display":  func(s *Spec) { s.Display.DPI++ },
		"label":    func(s *Spec) { s.Labels = map[string]string{"a": "b"} },
		"network":  func(s *Spec) { s.Network.UpBits = MinBits },
		"property": func(s *Spec) { s.Properties = map[string]string{"a": "b"} },
		"image":    func(s *Spec) { s.Image += "x" },
		"policy":   func(s *Spec) { s.RestartPolicy = Never },
	} {
		b := validSpec()
		if edit(&b); a.Equal(b) {
			t.Errorf("specs that differ in %s are equal", name)
		}
	}
	b := validSpec()
	if b.Labels = map[string]string{}; !a.Equal(b) {
		t.Error("no labels and an empty map of labels differ")
	}
}
