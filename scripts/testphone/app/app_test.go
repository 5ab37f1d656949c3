package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the system server's end of a link.
type server struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
	id   int
}

// start runs an app until the test ends.
func start(t *testing.T) *server {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Run(context.Background(), "com.example", theirs) }()
	t.Cleanup(func() {
		ours.Close()
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
	s := &server{t: t, conn: ours, in: bufio.NewScanner(ours)}
	if m := s.hear(); !m.Attached {
		t.Fatalf("the app says %+v", m)
	}
	return s
}

func (s *server) hear() (m Message) {
	s.t.Helper()
	if !s.in.Scan() {
		s.t.Fatalf("the link ended: %v", s.in.Err())
	}
	if err := json.Unmarshal(s.in.Bytes(), &m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// ask sends an intent.
func (s *server) ask(kind, class string, extras map[string]string) {
	s.t.Helper()
	s.id++
	b, err := json.Marshal(Intent{ID: s.id, Kind: kind, Package: "com.example", Class: "com.example" + class, Extras: extras})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.conn.Write(append(b, '\n')); err != nil {
		s.t.Fatal(err)
	}
}

// result is what comes of an intent.
func (s *server) result(kind, class string, extras map[string]string) Message {
	s.t.Helper()
	s.ask(kind, class, extras)
	m := s.hear()
	if m.Done != s.id {
		s.t.Fatalf("the answer to intent %d is %+v", s.id, m)
	}
	return m
}

func TestActivities(t *testing.T) {
	s := start(t)
	if m := s.result("activity", ".Main", nil); m.Code != ResultOK || m.Data != "" {
		t.Errorf("Main: %+v", m)
	}
	if m := s.result("activity", Loop, map[string]string{"threads": "2"}); m.Code != ResultOK {
		t.Errorf("Loop: %+v", m)
	}
	if m := s.result("activity", Loop, map[string]string{"threads": "0"}); m.Code != ResultCanceled || !strings.Contains(m.Data, "threads") {
		t.Errorf("Loop without threads: %+v", m)
	}
	s.ask("activity", Spawn, nil)
	for _, class := range []string{Worker, Isolated} {
		if m := s.hear(); m.StartService != "com.example"+class {
			t.Errorf("Spawn says %+v", m)
		}
	}
	if m := s.hear(); m.Done != s.id || m.Code != ResultOK {
		t.Errorf("Spawn: %+v", m)
	}
}

func TestNet(t *testing.T) {
	s := start(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer web.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		b := make([]byte, 100)
		if n, from, err := udp.ReadFrom(b); err == nil {
			_, _ = udp.WriteTo(append([]byte("got "), b[:n]...), from)
		}
	}()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tcp := "tcp://" + web.Listener.Addr().String()
	for name, test := range map[string]struct {
		extras map[string]string
		code   int
		data   string
	}{
		"tcp":     {map[string]string{"url": tcp}, ResultOK, "connected to " + web.Listener.Addr().String()},
		"http":    {map[string]string{"url": web.URL + "/x"}, ResultOK, "HTTP/1.0 418 I'm a teapot"},
		"udp":     {map[string]string{"url": "udp://" + udp.LocalAddr().String(), "send": "this", "expect": "20"}, ResultOK, "got this"},
		"refused": {map[string]string{"url": "tcp://" + closed.Addr().String()}, ResultCanceled, "connection refused"},
		"silent":  {map[string]string{"url": tcp, "expect": "1", "timeout": "50"}, ResultCanceled, "timeout"},
		"scheme":  {map[string]string{"url": "ftp://x"}, ResultCanceled, "want tcp://"},
		"nothing": {nil, ResultCanceled, "want tcp://"},
		"timeout": {map[string]string{"url": tcp, "timeout": "x"}, ResultCanceled, "timeout"},
		"expect":  {map[string]string{"url": tcp, "expect": "-1"}, ResultCanceled, "expect is"},
	} {
		if m := s.result("broadcast", Net, test.extras); m.Code != test.code || !strings.Contains(m.Data, test.data) {
			t.Errorf("%s: %+v, want %d and %q", name, m, test.code, test.data)
		}
	}
	// An activity keeps its connection.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if m := s.result("activity", Net, map[string]string{"url": "tcp://" + l.Addr().String(), "send": "x"}); m.Code != ResultOK {
		t.Fatalf("activity: %+v", m)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	s.conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the app's end: %v", err)
	}
}

func TestLinkThatIsNone(t *testing.T) {
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), "com.example", theirs) }()
	if _, err := bufio.NewReader(ours).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Write([]byte("nonsense\n")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("nonsense was taken")
	}
}
