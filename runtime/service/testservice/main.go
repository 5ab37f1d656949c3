// Command testservice is the service of this package's tests: it looks around in its container, says what it sees, and waits.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	switch os.Args[1] {
	case "end":
		os.Exit(3)
	case "hang":
		<-end
		return
	}
	if err := os.WriteFile("/run/next", []byte(look()), 0o644); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := os.Rename("/run/next", "/run/ready"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	<-end
	fmt.Println("asked to end,", cgroup())
}

// look says what there is.
func look() string {
	var b strings.Builder
	fmt.Fprintf(&b, "uid %d\n", os.Getuid())
	fmt.Fprintf(&b, "capabilities %s, no new privileges %s\n", status("CapEff"), status("NoNewPrivs"))
	greeting, _ := os.ReadFile("/config/greeting")
	fmt.Fprintf(&b, "greeting %s\n", greeting)
	for _, path := range []string{"/config/greeting", "/mnt/etc/new", "/new", "/mnt/new"} {
		fmt.Fprintf(&b, "write %s: %s\n", path, why(os.WriteFile(path, nil, 0o644)))
	}
	l, err := net.ListenPacket("udp", "127.0.0.2:53")
	if err == nil {
		l.Close()
	}
	fmt.Fprintf(&b, "bind port 53: %s\n", why(err))
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	fmt.Fprintf(&b, "raw socket: %s\n", why(err))
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_NEXT_ID, 0, 0)
	fmt.Fprintf(&b, "bpf: %s\n", why(errno))
	entries, _ := os.ReadDir("/")
	b.WriteString("files in /:")
	for _, e := range entries {
		b.WriteString(" " + e.Name())
	}
	b.WriteString("\n")
	return b.String()
}

// why is the innermost reason of an error.
func why(err error) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && errno != 0:
		return errno.Error()
	case err == nil || errors.As(err, &errno):
		return "ok"
	}
	return err.Error()
}

func status(name string) string {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

// cgroup is the name of the instance, which its directory on the host has.
func cgroup() string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 4 && f[4] == "/run" {
			return filepath.Base(filepath.Dir(f[3]))
		}
	}
	return "?"
}
