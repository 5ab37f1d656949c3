package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/health"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// file is a file of a fixture.
func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// fullApps is what a kernel refuses that refuses all.
var fullApps = applist.Status{Tier: "A", Mechanism: "lsm", Install: true, Launch: true, Network: true}

// refuses is a host whose kernel refuses what a status says.
func refuses(s applist.Status) func(*Host) {
	return func(h *Host) { h.AppLists = func() applist.Status { return s } }
}

// healthy returns a host that has nothing to mend.
func healthy(t *testing.T) *Host {
	root := fstest.MapFS{
		"sys/fs/cgroup/cgroup.controllers":       file("cpuset cpu io memory hugetlb pids\n"),
		"dev/loop-control":                       {Mode: fs.ModeDevice | fs.ModeCharDevice},
		"proc/filesystems":                       file("nodev\tsysfs\n\text4\nnodev\tbinder\n"),
		"proc/devices":                           file("Character devices:\n  1 mem\n510 binder\n\nBlock devices:\n  7 loop\n"),
		"proc/sys/fs/inotify/max_user_instances": file("8192\n"),
		"proc/sys/fs/inotify/max_user_watches":   file("1048576\n"),
		"proc/sys/kernel/pid_max":                file("4194304\n"),
		"proc/sys/kernel/core_pattern":           file("core\n"),
		"proc/sys/net/ipv6/conf/eth0/forwarding": file("0\n"),
		"sys/kernel/btf/vmlinux":                 file("BTF"),
		"sys/kernel/security/lsm":                file("lockdown,capability,apparmor,bpf\n"),
		"etc/phonehost/agent.crt":                nil,
		"etc/phonehost/agent.key":                nil,
		"etc/phonehost/ca.crt":                   nil,
	}
	cert, key := certificate(t, now.Add(-time.Hour), now.AddDate(1, 0, 0))
	root["etc/phonehost/agent.crt"], root["etc/phonehost/agent.key"] = file(cert), file(key)
	root["etc/phonehost/ca.crt"] = file(cert)
	return &Host{
		Config: Config{
			StateDir: "/var/lib/phonehost", DiskReserveBytes: 1 << 30, DisplayBinary: "/usr/lib/phonehost/phone-display",
			SocketGroup: "phonehost", Cert: "/etc/phonehost/agent.crt", Key: "/etc/phonehost/agent.key", CA: "/etc/phonehost/ca.crt",
			Containerd:        func(context.Context) (string, error) { return "1.6.20~ds1", nil },
			ContainerdAddress: "/run/containerd/containerd.sock",
			AppLists:          func() applist.Status { return fullApps },
			Health:            health.New(nil),
			Networks:          &networks{},
		},
		Root:    root,
		Now:     func() time.Time { return now },
		Release: func() (string, error) { return "6.1.0-44-arm64", nil },
		Command: func(_ context.Context, name string, args ...string) ([]byte, error) {
			switch name {
			case "runc":
				return []byte("runc version 1.1.5+ds1\ncommit: x\n"), nil
			case "systemctl":
				return []byte("KillMode=process\n"), nil
			}
			return []byte("libx264 h264\nlibopenh264 h264\n"), nil
		},
		LookPath:          func(name string) (string, error) { return "/sbin/" + name, nil },
		Free:              func(string) (uint64, uint64, error) { return 100 << 30, 50 << 30, nil },
		Group:             func(string) error { return nil },
		ClockSynchronised: func() (bool, error) { return true, nil },
		BPF:               func(BPFFeature) error { return nil },
		SameMounts:        func() (bool, error) { return true, nil },
		Unit:              "phonehostd.service",
	}
}

// certificate returns a certificate that vouches for itself, and its key, in PEM.
func certificate(t *testing.T, from, to time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func TestHealthyHost(t *testing.T) {
	findings := NewFor(healthy(t)).Run(t.Context())
	var names []string
	for _, f := range findings {
		names = append(names, f.Check)
		if f.Severity != OK || f.Remedy != "" || f.Message == "" {
			t.Errorf("%s: %s: %q (remedy %q)", f.Check, f.Severity, f.Message, f.Remedy)
		}
	}
	want := strings.Fields("kernel cgroups containerd runc loop-devices ext4 inotify pid-max core-pattern btf bpf-lsm bpf-programs " +
		"guard app-lists network bpffs pools uplink forwarding attach connections bandwidth firewall port-53 name-server binder encoder certificates disk clock socket-group systemd health")
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

func TestFindings(t *testing.T) {
	broken := errors.New("broken")
	set := func(name, text string) func(*Host) {
		return func(h *Host) { h.Root.(fstest.MapFS)[name] = file(text) }
	}
	del := func(names ...string) func(*Host) {
		return func(h *Host) {
			for _, name := range names {
				delete(h.Root.(fstest.MapFS), name)
			}
		}
	}
	prints := func(text string, err error) func(*Host) {
		return func(h *Host) {
			h.Command = func(context.Context, string, ...string) ([]byte, error) { return []byte(text), err }
		}
	}
	expires := func(from, to time.Time) func(*Host) {
		return func(h *Host) {
			cert, key := certificate(t, from, to)
			set("etc/phonehost/agent.crt", cert)(h)
			set("etc/phonehost/agent.key", key)(h)
		}
	}
	v1 := func(unified bool) func(*Host) {
		return func(h *Host) {
			del("sys/fs/cgroup/cgroup.controllers")(h)
			for _, c := range []string{"cpu", "memory", "pids"} {
				set("sys/fs/cgroup/"+c+"/tasks", "")(h)
			}
			if unified {
				set("sys/fs/cgroup/unified/cgroup.controllers", "")(h)
			}
		}
	}
	tests := []struct {
		check, name string
		change      func(*Host)
		want        Severity
		says        string // part of message or remedy
	}{
		{"kernel", "old", func(h *Host) { h.Release = func() (string, error) { return "5.10.0", nil } }, Error, "5.10.0"},
		{"kernel", "unverified", func(h *Host) { h.Release = func() (string, error) { return "5.15.0", nil } }, Warning, "not verified"},
		{"kernel", "newer major", func(h *Host) { h.Release = func() (string, error) { return "7.0.1", nil } }, OK, "7.0.1"},
		{"kernel", "strange", func(h *Host) { h.Release = func() (string, error) { return "x", nil } }, Warning, "not understood"},
		{"kernel", "unreadable", func(h *Host) { h.Release = func() (string, error) { return "", broken } }, Error, "broken"},
		{"cgroups", "v2 without memory", set("sys/fs/cgroup/cgroup.controllers", "cpu pids"), Error, "memory"},
		{"cgroups", "hybrid", v1(true), OK, "unified"},
		{"cgroups", "v1 alone", v1(false), Warning, "v1 alone"},
		{"cgroups", "none", del("sys/fs/cgroup/cgroup.controllers"), Error, "no cgroup v2"},
		{"containerd", "silent", func(h *Host) { h.Containerd = func(context.Context) (string, error) { return "", broken } }, Error, "apt-get install containerd"},
		{"containerd", "old", func(h *Host) { h.Containerd = func(context.Context) (string, error) { return "v1.5.9", nil } }, Error, "too old"},
		{"containerd", "new", func(h *Host) { h.Containerd = func(context.Context) (string, error) { return "v2.4.1", nil } }, OK, "2.4.1"},
		{"containerd", "newer", func(h *Host) { h.Containerd = func(context.Context) (string, error) { return "v3.0.0", nil } }, Warning, "verified"},
		{"runc", "missing", prints("", broken), Error, "apt-get install runc"},
		{"runc", "old", prints("runc version 1.0.0", nil), Error, "too old"},
		{"runc", "strange", prints("youki", nil), Warning, "youki"},
		{"loop-devices", "missing", del("dev/loop-control"), Error, "modprobe loop"},
		{"loop-devices", "a plain file", set("dev/loop-control", ""), Error, "modprobe loop"},
		{"ext4", "no tools", func(h *Host) { h.LookPath = func(string) (string, error) { return "", broken } }, Error, "e2fsprogs"},
		{"ext4", "not loaded", set("proc/filesystems", "nodev\tsysfs\n\text3\n"), Warning, "modprobe ext4"},
		{"inotify", "few instances", set("proc/sys/fs/inotify/max_user_instances", "128"), Warning, "sysctl"},
		{"inotify", "few watches", set("proc/sys/fs/inotify/max_user_watches", "8192"), Warning, "sysctl"},
		{"inotify", "unreadable", del("proc/sys/fs/inotify/max_user_watches"), Warning, "cannot be read"},
		{"pid-max", "small", set("proc/sys/kernel/pid_max", "32768"), Warning, "kernel.pid_max=4194304"},
		{"pid-max", "nonsense", set("proc/sys/kernel/pid_max", "many"), Warning, "cannot be read"},
		{"core-pattern", "pipe", set("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P"), Warning, "kernel.core_pattern=core"},
		{"btf", "missing", del("sys/kernel/btf/vmlinux"), Warning, "CONFIG_DEBUG_INFO_BTF"},
		{"bpf-lsm", "not active", set("sys/kernel/security/lsm", "capability,nobpf"), Warning, "lsm="},
		{"bpf-lsm", "no securityfs", del("sys/kernel/security/lsm"), Warning, "securityfs"},
		{"bpf-programs", "no lsm programs", func(h *Host) {
			h.BPF = func(f BPFFeature) error {
				if f == LSM {
					return broken
				}
				return nil
			}
		}, Warning, "lsm programs (broken)"},
		{"bpf-programs", "no tcx", func(h *Host) {
			h.BPF = func(f BPFFeature) error {
				if f == TCX {
					return broken
				}
				return nil
			}
		}, OK, "no tcx"},
		{"app-lists", "not installations", refuses(applist.Status{Tier: "C", Mechanism: "kill", Launch: true, Network: true, Why: []string{"lsm: not obeyed"}}),
			Warning, "(tier C) does not refuse installations: lsm: not obeyed"},
		{"app-lists", "the network alone", refuses(applist.Status{Tier: "D", Mechanism: "none", Network: true, Why: []string{"broken"}}), Warning,
			"not enforced in full: this host's kernel (tier D) does not refuse installations and launches"},
		{"app-lists", "nothing", refuses(applist.Status{Why: []string{"no cgroup v2"}}), Warning, "which need not obey: this host's kernel (no tier) does not refuse"},
		{"guard", "not obeyed", func(h *Host) { h.Guard = broken }, Warning, "broken"},
		{"binder", "missing", set("proc/filesystems", "ext4"), Warning, "testphone can"},
		{"binder", "devices alone", func(h *Host) {
			set("proc/filesystems", "ext4")(h)
			node := func(minor uint32) *fstest.MapFile {
				return &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice, Sys: &syscall.Stat_t{Rdev: unix.Mkdev(10, minor)}}
			}
			root := h.Root.(fstest.MapFS)
			root["dev/binder"], root["dev/hwbinder"], root["dev/vndbinder"] = node(61), node(62), node(63)
		}, Warning, "enough for 1 phones"},
		{"binder", "no number", set("proc/devices", "Character devices:\n  1 mem\n"), Warning, "not known"},
		{"encoder", "no program", prints("", fmt.Errorf("start: %w", fs.ErrNotExist)), Error, "is not installed"},
		{"encoder", "broken", prints("libavcodec.so.59: cannot open", broken), Error, "libavcodec.so.59: cannot open"},
		{"encoder", "none", prints("\n", nil), Error, "knows no encoder"},
		{"encoder", "not configured", func(h *Host) { h.DisplayBinary = "" }, Warning, "display.binary"},
		{"certificates", "closed doors", func(h *Host) { h.Cert, h.Key, h.CA = "", "", "" }, OK, "closed"},
		{"certificates", "half configured", func(h *Host) { h.CA = "" }, Error, "only some"},
		{"certificates", "missing file", del("etc/phonehost/agent.key"), Error, "agent.key"},
		{"certificates", "key of another", func(h *Host) { _, key := certificate(t, now, now); set("etc/phonehost/agent.key", key)(h) }, Error, "private key"},
		{"certificates", "expired", expires(now.AddDate(-1, 0, 0), now.Add(-time.Hour)), Error, "has expired on 2026-11-23"},
		{"certificates", "expires soon", expires(now.AddDate(-1, 0, 0), now.AddDate(0, 0, 29)), Warning, "in 29 days"},
		{"certificates", "not yet valid", expires(now.Add(time.Hour), now.AddDate(1, 0, 0)), Error, "not valid before"},
		{"certificates", "authorities are rubbish", set("etc/phonehost/ca.crt", "rubbish"), Error, "no certificate"},
		{"certificates", "authority expires soon", func(h *Host) {
			cert, _ := certificate(t, now.AddDate(-1, 0, 0), now.AddDate(0, 0, 3))
			set("etc/phonehost/ca.crt", cert)(h)
		}, Warning, "ca.crt expires"},
		{"disk", "full", func(h *Host) { h.Free = func(string) (uint64, uint64, error) { return 9 << 30, 1 << 29, nil } }, Error, "not created"},
		{"disk", "nearly full", func(h *Host) { h.Free = func(string) (uint64, uint64, error) { return 9 << 30, 1<<30 + 1, nil } }, Warning, "1024 MiB of"},
		{"disk", "unreadable", func(h *Host) { h.Free = func(string) (uint64, uint64, error) { return 0, 0, broken } }, Error, "broken"},
		{"clock", "1970", func(h *Host) { h.Now = func() time.Time { return time.Unix(0, 0) } }, Error, "1970"},
		{"clock", "adrift", func(h *Host) { h.ClockSynchronised = func() (bool, error) { return false, nil } }, Warning, "chrony"},
		{"socket-group", "missing", func(h *Host) { h.Group = func(string) error { return broken } }, Warning, "groupadd --system phonehost"},
		{"socket-group", "not configured", func(h *Host) { h.SocketGroup = "" }, OK, "only root"},
		{"systemd", "not under it", func(h *Host) { h.Unit = "" }, OK, "does not run"},
		{"systemd", "own mounts", func(h *Host) { h.SameMounts = func() (bool, error) { return false, nil } }, Error, "ProtectSystem"},
		{"systemd", "kills its cgroup", prints("KillMode=control-group\n", nil), Error, "KillMode=control-group"},
		{"health", "a warning stands", func(h *Host) { h.Health.Set("disk-low", health.Warning, "2 GiB left") }, Warning, "disk-low: 2 GiB left"},
		{"health", "an error stands", func(h *Host) { h.Health.Set("containerd-lost", health.Error, "gone") }, Error, "gone"},
	}
	checks := make(map[string]Check)
	for _, c := range Checks() {
		checks[c.Name] = c
	}
	for _, tt := range tests {
		t.Run(tt.check+"/"+tt.name, func(t *testing.T) {
			h := healthy(t)
			tt.change(h)
			f := checks[tt.check].Run(t.Context(), h)
			if f.Severity != tt.want || !strings.Contains(f.Message+"\n"+f.Remedy, tt.says) {
				t.Errorf("%s: %q (remedy %q), want %s and %q", f.Severity, f.Message, f.Remedy, tt.want, tt.says)
			}
		})
	}
}

func TestUnit(t *testing.T) {
	root := fstest.MapFS{"proc/self/cgroup": file("12:pids:/system.slice/phonehostd.service\n0::/system.slice/phonehostd.service\n")}
	if got := unit(root, "abc"); got != "phonehostd.service" {
		t.Errorf("unit = %q", got)
	}
	if got := unit(root, ""); got != "" {
		t.Errorf("unit without an invocation = %q", got)
	}
	root["proc/self/cgroup"] = file("0::/user.slice/user-0.slice/session-1.scope\n")
	if got := unit(root, "abc"); got != "" {
		t.Errorf("unit of a session = %q", got)
	}
}

// The real host must give a finding for every check, whatever it is.
func TestThisHost(t *testing.T) {
	findings := New(Config{StateDir: t.TempDir(), Health: health.New(nil)}).Run(t.Context())
	for _, f := range findings {
		if f.Severity < OK || f.Severity > Error || f.Message == "" || f.Check == "" {
			t.Errorf("finding %+v", f)
		}
		if f.Severity != OK && f.Remedy == "" {
			t.Logf("no remedy: %+v", f)
		}
		t.Logf("%-8s %-14s %s", f.Severity, f.Check, f.Message)
	}
}

// docs/doctor.md must have a row for every check, in their order.
func TestDocumentedChecks(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "doctor.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented, names []string
	for _, line := range strings.Split(string(doc), "\n") {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			documented = append(documented, strings.TrimSpace(cells[1]))
		}
	}
	for _, c := range Checks() {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff(append([]string{"check", "---"}, names...), documented); diff != "" {
		t.Errorf("checks of docs/doctor.md (-code +docs):\n%s", diff)
	}
}
