package appguard_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// Uids that tests use.
const (
	appAllowed = 10001
	appOffline = 10003 // may run, and has no network
	appUnknown = 10999
)

// apps are what tests know of them.
var apps = map[uint32]appguard.Bits{appAllowed: 0, appOffline: appguard.DenyNetwork}

// allowPing lets everybody have ping sockets.
func allowPing(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Fatal(err)
	}
}

// ways are all ways out that tests try, towards a port where nobody listens.
var ways = []string{"connect tcp 4 9", "connect tcp 6 9", "connect udp 4 9", "connect udp 6 9", "send 4 9", "send 6 9", "ping"}

// open is what each of ways meets when nothing refuses it, and shut when the programs do.
var (
	openWays = []string{"ECONNREFUSED", "ECONNREFUSED", "done", "done", "done", "done", "done"}
	shutWays = []string{"EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM"}
)

// as has a process become a uid and go all ways.
func as(uid uint32) []string {
	return slices.Insert(slices.Clone(ways), 0, fmt.Sprintf("setresuid %d %d %d", uid, uid, uid))
}

// Each way out, for each kind of uid, under each kind of rules.
func TestNetwork(t *testing.T) {
	g := open(t)
	allowPing(t)
	p, other := makePhone(t, "p1"), makePhone(t, "p2")
	other.set(t, g, appguard.Phone{Slot: 1, Apps: map[uint32]appguard.Bits{appOffline: 0}})
	for _, test := range []struct {
		name  string
		rules appguard.Phone
		shut  []uint32
		open  []uint32
	}{
		{"nothing denied", appguard.Phone{}, nil, []uint32{0, 1000, appAllowed, appUnknown, 99001}},
		{"an app denied", appguard.Phone{Apps: apps}, []uint32{appOffline, 1000000 + appOffline, 10000 + appOffline, 1010000 + appOffline}, []uint32{0, 1000, appAllowed, appUnknown, 99001, 50000}},
		{"unknown denied", appguard.Phone{Apps: apps, UnknownDeny: true}, []uint32{appOffline}, []uint32{0, 1000, appAllowed, 99001, 50000}},
		{"a system app denied", appguard.Phone{Apps: map[uint32]appguard.Bits{1002: appguard.DenyNetwork}}, []uint32{1002, 101002}, []uint32{0, 1000, appAllowed}},
		{"isolated denied: the network alone", appguard.Phone{Apps: apps}, nil, []uint32{90000, 99999}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.set(t, g, test.rules)
			for _, uid := range test.shut {
				if met := p.guest(t, as(uid)...); !slices.Equal(met[1:], shutWays) {
					t.Errorf("uid %d meets %v", uid, met)
				}
			}
			for _, uid := range test.open {
				if met := p.guest(t, as(uid)...); !slices.Equal(met[1:], openWays) {
					t.Errorf("uid %d meets %v", uid, met)
				}
			}
			for cgroup, whose := range map[string]string{other.below: "another phone's", cgroupRoot(): "no phone's"} {
				if met := runIn(t, cgroup, as(appOffline)...); !slices.Equal(met[1:], openWays) {
					t.Errorf("%s process meets %v", whose, met)
				}
			}
			var want []string
			for _, uid := range test.shut {
				want = append(want, fmt.Sprintf("network %d %q %d", uid, "", len(ways)))
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, counts(drain(t, g, 0))); diff != "" {
				t.Errorf("denials (-want +got):\n%s", diff)
			}
		})
	}
}

// Sockets count as their owner's, whoever uses them, and processes as what they are, whosever socket they use.
func TestNetworkOfOthersSockets(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Apps: apps})
	for _, test := range []struct {
		step string
		want string
	}{
		{fmt.Sprintf("owned %d %d 4 9", appAllowed, appAllowed), "done"},
		{fmt.Sprintf("owned %d %d 4 9", appOffline, appAllowed), "EPERM"},
		{fmt.Sprintf("owned %d %d 6 9", appOffline, appAllowed), "EPERM"},
		{fmt.Sprintf("owned %d %d 4 9", appOffline, 0), "EPERM"},
		{fmt.Sprintf("owned %d %d 4 9", appAllowed, appOffline), "EPERM"},
		{fmt.Sprintf("owned %d %d 4 9", 0, appOffline), "EPERM"},
		{fmt.Sprintf("raw %d", appAllowed), "done"},
		{fmt.Sprintf("raw %d", appOffline), "EPERM"}, // a raw socket of root's that was given away by fchown
		{"raw 0", "done"},
	} {
		if met := p.guest(t, test.step); !slices.Equal(met, []string{test.want}) {
			t.Errorf("%s meets %v; want %s", test.step, met, test.want)
		}
	}
}

// echo answers each byte of each connection with the same.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// dialogue is a process of a phone that does something for each line that it is told, and answers with a line.
type dialogue struct {
	in  io.Writer
	out *bufio.Reader
}

// begin starts one, whose last step answers.
func (p phone) begin(t *testing.T, steps ...string) dialogue {
	t.Helper()
	cmd := guestCommand(t, p.below, steps...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // some are killed
	})
	d := dialogue{in, bufio.NewReader(out)}
	for range len(steps) - 1 {
		if met := d.line(t); met != "done" {
			t.Fatalf("a step before the last meets %s", met)
		}
	}
	return d
}

func (d dialogue) line(t *testing.T) string {
	t.Helper()
	line, err := d.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// ask tells the process to go on and returns what it met.
func (d dialogue) ask(t *testing.T) string {
	t.Helper()
	if _, err := fmt.Fprintln(d.in); err != nil {
		t.Fatal(err)
	}
	return d.line(t)
}

// A connection that is there when its owner is denied the network falls silent with that call, and speaks again when it is allowed.
func TestNetworkOfConnections(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	allow, deny := appguard.Phone{Apps: map[uint32]appguard.Bits{appOffline: 0}}, appguard.Phone{Apps: apps}
	p.set(t, g, allow)
	become := fmt.Sprintf("setresuid %d %[1]d %[1]d", appOffline)
	tcp := p.begin(t, become, "talk tcp "+echo(t))
	udp := p.begin(t, become, "hear udp 127.0.0.1:0")
	sender, err := net.Dial("udp", udp.line(t))
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	for round := range 2 {
		for _, each := range []struct {
			rules appguard.Phone
			want  string
		}{{allow, "done"}, {deny, "silence"}, {allow, "done"}} {
			p.set(t, g, each.rules)
			if met := tcp.ask(t); met != each.want {
				t.Errorf("round %d: the connection meets %s; want %s", round, met, each.want)
			}
			if _, err := sender.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if met := udp.ask(t); met != each.want {
				t.Errorf("round %d: what is sent to it meets %s; want %s", round, met, each.want)
			}
		}
	}
	if list := drain(t, g, 0); len(list) != 1 || list[0].UID != appOffline || list[0].Kind != appguard.KindNetwork {
		t.Errorf("denials are %v", list)
	}
}
