package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// counted returns an edit that does to the n-th line, counted from 0, what change says.
func counted(change func(n int, line string) string) func(string) string {
	n := -1
	return func(line string) string {
		n++
		return change(n, line)
	}
}

// TestHandshakeWithLosses loses every combination of the first lines of both sides.
func TestHandshakeWithLosses(t *testing.T) {
	const lines = 4
	for lost := range 1 << (2 * lines) {
		lose := func(mask int) func(string) string {
			return counted(func(n int, line string) string {
				if n < lines && mask>>n&1 == 1 {
					return ""
				}
				return line
			})
		}
		synctest.Test(t, func(t *testing.T) {
			host, guest := pipe()
			s := make(chan error, 1)
			go func() {
				s <- echo(Guest{})(t.Context(), &editor{ReadWriteCloser: guest, edit: lose(lost >> lines)})
			}()
			w, _ := meets(t, &editor{ReadWriteCloser: host, edit: lose(lost)}, (2*lines+1)*helloInterval)
			w.Close()
			if err := <-s; err != nil {
				t.Errorf("lost %b: the guest's session ended with %v", lost, err)
			}
		})
	}
}

// TestHandshakeOfMangledLines changes one line, or all, of one side.
func TestHandshakeOfMangledLines(t *testing.T) {
	all := func(change func(string) string) func(string) string { return change }
	first := func(change func(string) string) func(string) string {
		return counted(func(n int, line string) string {
			if n == 0 {
				return change(line)
			}
			return line
		})
	}
	second := func(change func(string) string) func(string) string {
		return counted(func(n int, line string) string {
			if n == 1 {
				return change(line)
			}
			return line
		})
	}
	same := func(line string) string { return line }
	twice := func(line string) string { return line + line }
	cut := func(line string) string { return line[:len(line)-3] }
	headless := func(line string) string { return line[3:] }
	behind := func(line string) string { return "no end" + line }
	amidst := func(line string) string { return line + "\x00rubbish\n\x00\x00\x00\x09more of it" }
	records := func(line string) string { return "\x00\x00\x00\x04abcd\n" + line }
	other := func(line string) string { return line[:len(line)-2] + "@\n" + line }
	endless := func(line string) string { return strings.Repeat("x", 3*maxLine) + line }
	crowd := func(line string) string { return strings.Repeat(line, 50) }
	for name, edit := range map[string]struct{ host, guest func(string) string }{
		"every line twice":                {all(twice), all(twice)},
		"every line fifty times":          {all(crowd), all(crowd)},
		"hello cut":                       {first(cut), same},
		"hello headless":                  {first(headless), same},
		"hello behind rubbish":            {first(behind), same},
		"hello behind too long a line":    {first(endless), same},
		"rubbish before hello":            {first(records), same},
		"another hello before ours":       {first(other), same},
		"rubbish between ready and start": {first(amidst), same},
		"start cut":                       {second(cut), same},
		"start headless":                  {second(headless), same},
		"start behind rubbish":            {second(behind), same},
		"start behind too long a line":    {second(endless), same},
		"another start before ours":       {second(other), same},
		"start twice":                     {second(twice), same},
		"ready cut":                       {same, first(cut)},
		"ready headless":                  {same, first(headless)},
		"ready behind records":            {same, first(records)},
		"ready before rubbish":            {same, first(amidst)},
		"ready of another":                {same, first(other)},
		"ready fifty times":               {same, first(crowd)},
		"started cut":                     {same, second(cut)},
		"started behind records":          {same, second(records)},
		"started of another":              {same, second(other)},
		"started twice":                   {same, second(twice)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host, guest := pipe()
				said := Guest{BootID: "b", Release: "6.12", Kind: "kernel", Problems: []string{"one", "two"}}
				s := make(chan error, 1)
				go func() {
					s <- echo(said)(t.Context(), &editor{ReadWriteCloser: guest, edit: edit.guest})
				}()
				w, heard := meets(t, &editor{ReadWriteCloser: host, edit: edit.host}, 3*helloInterval)
				if diff := cmp.Diff(said, heard); diff != "" {
					t.Errorf("guest (-said +heard):\n%s", diff)
				}
				w.Close()
				if err := <-s; err != nil {
					t.Errorf("the guest's session ended with %v", err)
				}
			})
		})
	}
}

// TestHandshakeAfterRubbish puts rubbish before each side's first line.
func TestHandshakeAfterRubbish(t *testing.T) {
	// A frame of yamux's with 1 GiB to come, of a stream that is not there: yamux alone would drop all that follows.
	endless := "\x00\x00\x00\x00\x00\x00\x00\x63\x40\x00\x00\x00"
	for name, rubbish := range map[string]string{
		"nothing":              "",
		"text":                 "login: ",
		"zeros":                strings.Repeat("\x00", 5000),
		"half a record":        "\x00\x01\x00\x00" + endless + "payload",
		"half a header":        "\x00\x01",
		"records":              "\x00\x00\x00\x0c" + endless + "\x00\x00\x00\x02\n\n",
		"half a hello":         "\n" + hello + "ABC",
		"a start of nobody":    "\n" + start + "\n",
		"an old session":       "\n" + hello + "OLD\n\n" + start + "OLD\n",
		"an old answer":        "\n" + ready + "OLD {}\n\n" + started + "OLD\n\x00\x00\x00\x0c" + endless,
		"another version":      "\nphonehost-control 1 hello X\n",
		"a line without end":   strings.Repeat("0123456789", 20_000),
		"a line just too long": strings.Repeat("x", maxLine) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down, up := newQueue(0), newQueue(0)
				down.data, up.data = []byte(rubbish), []byte(rubbish)
				s := make(chan error, 1)
				go func() { s <- echo(Guest{})(t.Context(), end{down, up}) }()
				w, _ := meets(t, end{up, down}, 3*helloInterval)
				w.Close()
				if err := <-s; err != nil {
					t.Errorf("the guest's session ended with %v", err)
				}
			})
		})
	}
}

// TestHostThatComesUnseen has a host go away at each byte of a session, and another one come, without the guest seeing either: what
// the second host says is first taken for the rest of what the first one said.
func TestHostThatComesUnseen(t *testing.T) {
	// session is a host's whole session, of which the first bytes pass. It reports how many there were.
	session := func(t *testing.T, p *port, pass int) int {
		conn := &cutter{ReadWriteCloser: p.dial(), left: pass}
		ctx, cancel := context.WithTimeout(t.Context(), helloInterval/2)
		defer cancel()
		w := newWire(conn)
		defer w.Close()
		if _, err := greet(ctx, w); err == nil {
			for _, text := range []string{"short", strings.Repeat("long ", 12_000)} {
				io.WriteString(w, text)
			}
			synctest.Wait()
		}
		return pass - conn.pass(0)
	}
	whole := 0
	synctest.Test(t, func(t *testing.T) {
		p := newPort()
		defer p.serve(t, echo(Guest{}))()
		whole = session(t, p, 1<<20)
	})
	if whole < 60_000 {
		t.Fatalf("a whole session has %d bytes: the test shows nothing", whole)
	}
	for pass := 0; pass <= whole; {
		synctest.Test(t, func(t *testing.T) {
			p := newPort()
			defer p.serve(t, echo(Guest{}))()
			session(t, p, pass)
			// One repeated hello ends the old session, the next one begins the new.
			meets(t, p.dial(), 3*helloInterval)
		})
		if t.Failed() {
			t.Fatalf("after %d bytes of %d", pass, whole)
		}
		if pass++; pass > 300 && pass < whole {
			pass += min(4001, whole-pass) // all but few bytes are within one record
		}
	}
}

// TestHostThatComesUnseenToYamux is the same with whole sessions: the first host is cut off within a header of yamux's.
func TestHostThatComesUnseenToYamux(t *testing.T) {
	t.Parallel()
	p := newPort()
	defer p.serve(t, func(ctx context.Context, conn io.ReadWriteCloser) error {
		return Serve(ctx, conn, Guest{}, handler{}, nil)
	})()
	conn := &cutter{ReadWriteCloser: p.dial(), left: 1 << 20}
	first, err := NewClient(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Unpack(t.Context()); !errdefs.IsNotImplemented(err) {
		t.Fatal(err)
	}
	conn.pass(recordHeader + 5)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() { first.Unpack(ctx) })
	conn.passed()
	cancel()
	asking.Wait()
	first.Close()
	second, err := NewClient(t.Context(), p.dial(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Unpack(t.Context()); !errdefs.IsNotImplemented(err) {
		t.Errorf("the second host's request: %v, want the guest's answer", err)
	}
}

// TestGuestThatBeginsAnew has a guest program end at each of its lines, and another one begin.
func TestGuestThatBeginsAnew(t *testing.T) {
	for _, after := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("after %d lines", after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPort()
				old, end := context.WithCancel(t.Context())
				conn := p.open()
				cut := &editor{ReadWriteCloser: conn, edit: counted(func(n int, line string) string {
					if n < after {
						return line
					}
					end()
					return ""
				})}
				ended := make(chan func(), 1)
				go func() {
					echo(Guest{BootID: "old"})(old, cut)
					ended <- p.serve(t, echo(Guest{BootID: "new"}))
				}()
				if after == 2 {
					// The host is in its session when the guest ends: QEMU tells it, and it comes again.
					w, guest := meets(t, p.dial(), helloInterval)
					if guest.BootID != "old" {
						t.Errorf("the first guest is %+v", guest)
					}
					end()
					w.Close()
				}
				w, guest := meets(t, p.dial(), 4*helloInterval)
				if guest.BootID != "new" {
					t.Errorf("the guest is %+v, want the one that sends back", guest)
				}
				w.Close()
				(<-ended)()
			})
		})
	}
}

// TestHostThatGoes has the port end before and amidst the host's lines.
func TestHostThatGoes(t *testing.T) {
	for name, said := range map[string]string{
		"nothing": "", "half a hello": "\n" + hello + "AB", "a hello": "\n" + hello + "AB\n", "all but records": "\n" + hello + "AB\n" + start + "AB\n",
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := pipe()
			if _, err := io.WriteString(host, said); err != nil {
				t.Fatal(err)
			}
			host.out.set(func() { host.out.ended = true })
			if err := Serve(t.Context(), guest, Guest{}, handler{}, nil); !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "wait for the host") {
				t.Errorf("got %v", err)
			}
			if _, err := guest.Write([]byte("x")); err == nil {
				t.Error("the port is left open")
			}
		})
	}
}

// TestGreetingEnds has the guest be silent, go away, or say what nobody understands.
func TestGreetingEnds(t *testing.T) {
	why := errors.New("enough waited")
	t.Run("with its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			host, guest := pipe()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 10*helloInterval, why)
			defer cancel()
			if _, err := NewClient(ctx, host, nil); !errors.Is(err, why) || !strings.Contains(err.Error(), Port) {
				t.Errorf("got %v, want the context's cause and the port", err)
			}
			// What a guest that does not read has to read afterwards is bounded.
			heard, err := io.ReadAll(guest)
			if n := bytes.Count(heard, []byte(hello)); err != nil || n < 1 || len(heard) > 4*maxRecord {
				t.Errorf("the guest heard %d bytes with %d times hello, %v", len(heard), n, err)
			}
			if _, err := host.Write([]byte("x")); err == nil {
				t.Error("the port is left open")
			}
		})
	})
	t.Run("with the port", func(t *testing.T) {
		host, guest := pipe()
		guest.Close()
		if _, err := NewClient(t.Context(), host, nil); !errdefs.IsUnavailable(err) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	})
	t.Run("of another protocol", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			host, guest := pipe()
			go func() {
				w := newWire(guest)
				defer w.Close()
				for {
					line, _, err := w.line(false)
					if err != nil {
						return
					}
					w.say("\n" + ready + strings.TrimPrefix(line, hello) + " [1, 2]\n")
				}
			}()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 10*helloInterval, why)
			defer cancel()
			if _, err := NewClient(ctx, host, nil); !errors.Is(err, why) || !strings.Contains(err.Error(), "cannot be decoded") {
				t.Errorf("got %v, want the context's cause and what is wrong with the answer", err)
			}
		})
	})
	t.Run("before it began", func(t *testing.T) {
		host, _ := pipe()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if _, err := NewClient(ctx, host, nil); !errors.Is(err, why) {
			t.Errorf("got %v, want the context's cause", err)
		}
	})
}

// TestManyProblems has a guest say more of itself than a line holds.
func TestManyProblems(t *testing.T) {
	said := Guest{BootID: "boot", Kind: "kernel"}
	for i := range 5000 {
		said.Problems = append(said.Problems, fmt.Sprintf("problem %d: something is missing", i))
	}
	host, guest := pipe()
	go echo(said)(t.Context(), guest)
	_, heard := meets(t, host, time.Minute)
	last := len(heard.Problems) - 1
	if last < 1000 || heard.Problems[last] != fmt.Sprintf("and %d more", len(said.Problems)-last) || heard.BootID != "boot" {
		t.Fatalf("heard %d problems, the last one %q", last+1, heard.Problems[max(last, 0)])
	}
	if diff := cmp.Diff(said.Problems[:last], heard.Problems[:last]); diff != "" {
		t.Errorf("problems (-said +heard):\n%s", diff)
	}
	if err := Serve(t.Context(), guest, Guest{Release: strings.Repeat("x", maxLine)}, handler{}, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a guest whose name does not fit: %v", err)
	}
}
