package nat

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// Each table that a lesser kernel would get is one that the kernel takes, has what it should and nothing else, and can be saved and
// loaded.
func TestTablesOfLesserKernels(t *testing.T) {
	testenv.Root(t)
	nft := testenv.Tool(t, "nft")
	n, err := New(Config{Pool4: netip.MustParsePrefix("10.213.0.0/16"), Masquerade4: true, Timeouts: Timeouts{
		TCPNew: time.Second, TCPEstablished: time.Hour, TCPClosing: time.Minute, TCPClosed: time.Second, UDPNew: time.Second, UDPEstablished: time.Minute,
	}})
	if err != nil {
		t.Fatal(err)
	}
	forwards := []Forward{{Listen: netip.MustParseAddrPort("127.0.0.1:5555"), Protocol: policy.TCP, Phone: netip.MustParseAddr("10.213.0.2"), Port: 5555}}
	texts := map[string]bool{}
	for _, support := range variants {
		texts[support.Text()] = true
		if err := n.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.commit(t.Context(), support, forwards); err != nil {
			t.Errorf("%+v: %v", support, err)
			continue
		}
		out, err := exec.CommandContext(t.Context(), nft, "list", "table", "inet", Table).CombinedOutput()
		if err != nil {
			t.Fatalf("nft list: %v\n%s", err, out)
		}
		for part, want := range map[string]bool{
			"ct timeout set": support.Timeouts, "ct timeout tcp": support.Timeouts, "ct timeout udp": support.Timeouts,
			"ct count over 8192": support.Count, "set begun4": support.Count,
			"masquerade": true, "127.0.0.1 . tcp . 5555 : 10.213.0.2 . 5555": true,
		} {
			if strings.Contains(string(out), part) != want {
				t.Errorf("%+v: that %q is in the table is to be %t:\n%s", support, part, want, out)
			}
		}
		load := exec.CommandContext(t.Context(), nft, "--check", "-f", "-")
		load.Stdin = strings.NewReader(string(out))
		if said, err := load.CombinedOutput(); err != nil {
			t.Errorf("%+v: nft cannot load what it lists: %v\n%s", support, err, said)
		}
	}
	if err := n.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if len(texts) != len(variants) {
		t.Errorf("%d sentences say what bounds %d tables", len(texts), len(variants))
	}
}

// Whatever the kernel may send is read or refused.
func FuzzParse(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 6, 0, 0, 0, 0, 1, 8, 0, 10, 0, 0, 0, 0, 7, 11, 0, 1, 0, 'f', 'i', 'l', 't', 'e', 'r', 0, 0})
	f.Add([]byte{2, 0, 0, 0, 12, 0, 5, 0x80, 8, 0, 1, 0, 0, 0, 0, 0})
	f.Add(make([]byte, diagAnswerSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		tracer := &tracer{link: 7, known: map[uint32]bool{}}
		if _, ours, err := tracer.parse(data); err == nil && ours && len(tracer.known) == 0 {
			t.Error("a packet is the link's that never came in by it")
		}
		if s, err := parseSocket(data); err == nil && !s.local.IsValid() {
			t.Errorf("a socket without an address of %x", data)
		}
	})
}
