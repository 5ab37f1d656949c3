package ocispec_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
)

// The conformance suite: what holds for every profile. A new profile is in it by being in profile.Names.

// conforming is a guest of a profile with everything that a host may give it.
func conforming(t *testing.T, name, arch string, grant binder.Grant) ocispec.Guest {
	t.Helper()
	g := android(t, name, arch)
	g.Binder = grant
	g.Boot.Properties = map[string]string{"ro.example": "1"}
	return g
}

// eachProfile runs a test for every profile, architecture and grant of binder, with the spec that it gives.
func eachProfile(t *testing.T, test func(t *testing.T, g ocispec.Guest, spec *specs.Spec)) {
	t.Helper()
	all := grants()
	all["no binder"] = binder.Grant{}
	for _, name := range profile.Names() {
		for _, arch := range []string{"amd64", "arm64"} {
			for kind, grant := range all {
				t.Run(name+"/"+arch+"/"+kind, func(t *testing.T) {
					g := conforming(t, name, arch, grant)
					spec, err := ocispec.BuildGuest(g)
					if err != nil {
						t.Fatal(err)
					}
					test(t, g, spec)
				})
			}
		}
	}
}

// TestProfilesAreNotPrivileged holds what no guest may ever have.
func TestProfilesAreNotPrivileged(t *testing.T) {
	eachProfile(t, func(t *testing.T, g ocispec.Guest, spec *specs.Spec) {
		caps := spec.Process.Capabilities
		for _, never := range []string{
			"CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_PERFMON", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_TIME",
		} {
			for _, set := range [][]string{caps.Bounding, caps.Effective, caps.Permitted, caps.Inheritable, caps.Ambient} {
				if slices.Contains(set, never) {
					t.Errorf("it has %s", never)
				}
			}
		}
		if len(caps.Inheritable) > 0 || len(caps.Ambient) > 0 || !slices.IsSorted(g.Profile.Capabilities[min(1, len(g.Profile.Capabilities)):]) {
			t.Errorf("capabilities are inherited, or not in order: %+v", caps)
		}
		if !spec.Process.NoNewPrivileges || spec.Linux.Seccomp == nil || spec.Process.Rlimits[0] != (specs.POSIXRlimit{Type: "RLIMIT_CORE"}) {
			t.Error("it may gain privileges, has no filter, or dumps core")
		}
		if admin := slices.Contains(caps.Bounding, "CAP_SYS_ADMIN"); admin != g.Profile.Seccomp.Android {
			t.Errorf("CAP_SYS_ADMIN is %v, the filter for guests that have it %v", admin, g.Profile.Seccomp.Android)
		}
	})
}

// TestProfilesHaveNamespaces makes sure that nothing is shared with the host.
func TestProfilesHaveNamespaces(t *testing.T) {
	eachProfile(t, func(t *testing.T, g ocispec.Guest, spec *specs.Spec) {
		have := map[specs.LinuxNamespaceType]string{}
		for _, ns := range spec.Linux.Namespaces {
			have[ns.Type] = ns.Path
		}
		for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace} {
			if path, ok := have[kind]; !ok || path != "" {
				t.Errorf("namespace %s: %v at %q, want one of its own", kind, ok, path)
			}
		}
		if have[specs.NetworkNamespace] != g.NetNS {
			t.Errorf("network namespace %q, want the phone's %q", have[specs.NetworkNamespace], g.NetNS)
		}
		if spec.Linux.CgroupsPath != g.CgroupsPath || spec.Annotations[ocispec.GroupAnnotation] != g.ID {
			t.Error("the cgroup or the shim is not the phone's")
		}
	})
}

// TestProfilesReachNothingOfTheHost goes through mounts, devices and hidden paths.
func TestProfilesReachNothingOfTheHost(t *testing.T) {
	eachProfile(t, func(t *testing.T, g ocispec.Guest, spec *specs.Spec) {
		for _, hidden := range []string{
			"/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger", "/sys/firmware", "/sys/fs/bpf", "/sys/fs/fuse/connections", "/sys/kernel/debug",
			"/sys/kernel/tracing", "/sys/power",
		} {
			if !slices.Contains(spec.Linux.MaskedPaths, hidden) {
				t.Errorf("%s is not hidden", hidden)
			}
		}
		for _, fixed := range []string{"/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/irq", "/proc/bus"} {
			if !slices.ContainsFunc(spec.Linux.ReadonlyPaths, func(p string) bool { return p == fixed || strings.HasPrefix(fixed, p+"/") }) {
				t.Errorf("%s can be written", fixed)
			}
		}
		if first := spec.Linux.Resources.Devices[0]; first.Allow || first.Access != "rwm" || first.Type != "" {
			t.Errorf("the first device rule is %+v, want all refused", first)
		}
		for _, d := range spec.Linux.Resources.Devices[1:] {
			if d.Type != "c" || d.Major == nil || strings.Contains(d.Access, "m") {
				t.Errorf("device rule %+v: a block device, a whole kind, or nodes that may be made", d)
			}
		}
		for _, d := range spec.Linux.Devices {
			if d.Type != "c" || !strings.HasPrefix(d.Path, "/dev/") {
				t.Errorf("device %+v", d)
			}
		}
		seen := map[string]bool{}
		for _, m := range spec.Mounts {
			if seen[m.Destination] {
				t.Errorf("%s is mounted twice", m.Destination)
			}
			seen[m.Destination] = true
			checkMount(t, g, m)
		}
		if !spec.Root.Readonly {
			t.Error("the root can be written, which nothing bounds")
		}
	})
}

// checkMount wants every mount bounded, and nothing of a disk of the host's in it but the phone's own.
func checkMount(t *testing.T, g ocispec.Guest, m specs.Mount) {
	t.Helper()
	has := func(prefix string) bool {
		return slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, prefix) })
	}
	if !has("nosuid") {
		t.Errorf("%s: set-uid programs count", m.Destination)
	}
	switch m.Type {
	case "tmpfs":
		if !has("size=") || !has("nr_inodes=") {
			t.Errorf("%s has no bound", m.Destination)
		}
	case "bind":
		if !has("ro") || !strings.HasPrefix(m.Source, g.WaylandDir) && !strings.HasPrefix(m.Source, g.FilesDir) {
			t.Errorf("%s is bound from %s with %v", m.Destination, m.Source, m.Options)
		}
	case "ext4":
		if m.Source != g.DataDevice || m.Destination != "/data" {
			t.Errorf("%s is mounted at %s", m.Source, m.Destination)
		}
	case "sysfs":
		if !has("ro") {
			t.Error("/sys can be written")
		}
	case "binder":
		if !has("max=") || has("stats=") {
			t.Errorf("binderfs has options %v", m.Options)
		}
	case "proc", "devpts":
	default:
		t.Errorf("%s is a mount of type %s", m.Destination, m.Type)
	}
}

// TestProfilesFilter looks for the calls that every filter refuses.
func TestProfilesFilter(t *testing.T) {
	eachProfile(t, func(t *testing.T, g ocispec.Guest, spec *specs.Spec) {
		refused := map[string]bool{} // without a condition
		conditions := map[string]int{}
		for _, rule := range spec.Linux.Seccomp.Syscalls {
			for _, name := range rule.Names {
				if rule.Action != specs.ActErrno || rule.ErrnoRet == nil {
					t.Errorf("%s: %+v", name, rule)
				}
				if len(rule.Args) > 0 {
					conditions[name]++
				} else if refused[name] {
					t.Errorf("two rules without a condition for %s", name)
				} else {
					refused[name] = true
				}
			}
		}
		for name := range conditions {
			if refused[name] {
				t.Errorf("%s has a rule with a condition beside one without, which hides it", name)
			}
		}
		for _, call := range []string{"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "open_by_handle_at", "perf_event_open", "clone3"} {
			if !refused[call] {
				t.Errorf("%s is allowed", call)
			}
		}
		if conditions["ioctl"] == 0 || !refused["bpf"] && conditions["bpf"] < 10 || conditions["unshare"] == 0 || conditions["clone"] == 0 {
			t.Error("a rule for ioctl, bpf or namespaces is missing")
		}
	})
}

// TestProfilesSayHowTheyLive wants everything stated that the agent asks of a profile.
func TestProfilesSayHowTheyLive(t *testing.T) {
	for _, name := range profile.Names() {
		t.Run(name, func(t *testing.T) {
			p, err := profile.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != name || p.MaxPIDs <= 0 || len(p.Env) == 0 || !strings.HasPrefix(p.BinderDir, "/dev/") {
				t.Errorf("name %q, %d processes, environment %v, binder at %q", p.Name, p.MaxPIDs, p.Env, p.BinderDir)
			}
			if p.BootCompletedArgs == nil || !p.BootCompleted("1\n") || p.BootCompleted("") || p.BootCompleted("0\n") {
				t.Error("boot completion")
			}
			if (len(p.Shutdown.Args) > 0) == (p.Shutdown.Signal != 0) {
				t.Errorf("shutdown %+v, want a program or a signal", p.Shutdown)
			}
			if keeps := slices.Contains(p.Capabilities, "CAP_SYS_BOOT"); keeps == (p.Shutdown.Signal != 0) {
				t.Errorf("shutdown %+v with CAP_SYS_BOOT %v: init listens to SIGTERM only without it", p.Shutdown, keeps)
			}
			for code, want := range map[uint32]profile.Ending{129: profile.Rebooted, 130: profile.PoweredOff, 134: profile.Crashed, 137: profile.Crashed} {
				if got := p.Ending(code, profile.Evidence{}); got != want {
					t.Errorf("exit %d means %v, want %v", code, got, want)
				}
			}
			// Where evidence makes a difference it is asked for, and nowhere else.
			for _, code := range []uint32{0, 1, 129, 130, 134, 137} {
				told := p.Ending(code, profile.Evidence{BootReason: profile.BootReason{Value: "shutdown"}}) != p.Ending(code, profile.Evidence{})
				if asks := p.NeedsBootReason != nil && p.NeedsBootReason(code); asks != told {
					t.Errorf("exit %d: the boot reason is asked for: %v, and makes a difference: %v", code, asks, told)
				}
			}
			if len(p.Shell) == 0 || !filepath.IsAbs(p.Shell[0]) || len(p.PackageManager) == 0 || len(p.ActivityManager) == 0 || !strings.HasPrefix(p.PackageList, "/data/") {
				t.Errorf("shell %v, pm %v, am %v, packages in %q", p.Shell, p.PackageManager, p.ActivityManager, p.PackageList)
			}
			if p.WaylandDir != "" && !filepath.IsAbs(p.WaylandDir) {
				t.Errorf("Wayland directory %q", p.WaylandDir)
			}
			for _, f := range p.Files {
				if !filepath.IsAbs(f.Path) || f.Content == nil {
					t.Errorf("file %+v", f)
				}
			}
		})
	}
}

// TestPropertiesEscapeNothing gives each profile properties that would be more than one, or something else, where init reads them.
func TestPropertiesEscapeNothing(t *testing.T) {
	values := []string{
		"", "plain", "a b", " lead", "trail ", "tab\tbed", "two\nlines", "carriage\rreturn", "nul\x00byte", `"quoted"`, `un"balanced`, "back\\slash", "$(id)", "`id`", "; reboot",
		"a=b", "a\u00a0b", "a\u2028b", "\xff\xfe", "# no comment", strings.Repeat("x", 91), strings.Repeat("x", 92), strings.Repeat("x", 256), "androidboot.evil=1", "x ro.evil=1",
	}
	names := []string{
		"ro.example", "androidboot.example", "persist.example", "example", "ctl.start", "sys.powerctl", ".", "..", "ro..example", ".ro", "ro.", "ro example", "ro=example", "#ro", "import /etc/passwd",
		"ro.\x00", "ro.\n", "--", "selinux_setup",
	}
	for _, profileName := range profile.Names() {
		for _, name := range names {
			for _, value := range values {
				g := conforming(t, profileName, "arm64", binder.Grant{})
				g.Boot.Properties = map[string]string{name: value}
				spec, err := ocispec.BuildGuest(g)
				if err != nil {
					if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
						t.Errorf("%s, %q=%q: %v", profileName, name, value, err)
					}
					continue
				}
				if got := readBack(g, spec); got[name] != value || len(got) != len(readBack(without(t, g)))+1 {
					t.Errorf("%s: %q=%q is read by init as %v", profileName, name, value, got)
				}
			}
		}
	}
}

// without builds a guest that has no properties of an owner.
func without(t *testing.T, g ocispec.Guest) (ocispec.Guest, *specs.Spec) {
	t.Helper()
	g.Boot.Properties = nil
	spec, err := ocispec.BuildGuest(g)
	if err != nil {
		t.Fatal(err)
	}
	return g, spec
}

// readBack reads properties as each image's init does: from its arguments, from these joined by spaces, and from a file of lines.
func readBack(g ocispec.Guest, spec *specs.Spec) map[string]string {
	pairs := spec.Process.Args[1:]
	if g.Profile.Seccomp.Android {
		pairs = splitCommandLine(strings.Join(pairs, " "))
	}
	for _, f := range g.Profile.Files {
		for line := range strings.Lines(string(f.Content(g.Boot))) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				pairs = append(pairs, line)
			}
		}
	}
	read := map[string]string{}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if _, twice := read[name]; twice {
			name += " twice"
		}
		read[name] = value
	}
	return read
}

// splitCommandLine splits at white space, but not within quotation marks, which it takes away (fs_mgr, ImportKernelCmdlineFromString).
func splitCommandLine(line string) []string {
	var words []string
	word, quoted := "", false
	for _, r := range line + " " {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			if word != "" {
				words = append(words, word)
			}
			word = ""
		default:
			word += string(r)
		}
	}
	return words
}

// TestSpecsAreValid runs oci-runtime-tool's checks and the specification's JSON schema on the spec of every profile, and of a display.
func TestSpecsAreValid(t *testing.T) {
	dir := t.TempDir()
	var files []string
	write := func(name string, spec *specs.Spec) {
		t.Helper()
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(dir, name+".json"))
		if err := os.WriteFile(files[len(files)-1], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, g := range androidSpecs(t) {
		spec, err := ocispec.BuildGuest(g)
		if err != nil {
			t.Fatal(err)
		}
		write(name, spec)
	}
	for kind, grant := range grants() {
		g := guest(t, runtime.GOARCH)
		g.Binder = grant
		spec, err := ocispec.BuildGuest(g)
		if err != nil {
			t.Fatal(err)
		}
		write("guest-testphone-"+kind, spec)
	}
	spec, err := ocispec.BuildDisplay(display(runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	spec.Root.Path = "rootfs" // the tool knows no other
	write("display", spec)
	if out, err := validate(t, files); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// That it finds what is wrong.
	spec.Process.Cwd, spec.Linux.Namespaces[0].Type = "relative", "nonsense"
	write("wrong", spec)
	if out, err := validate(t, files[len(files)-1:]); err == nil || !strings.Contains(out, "cwd \"relative\"") || !strings.Contains(out, "linux.namespaces.0.type") {
		t.Errorf("a spec that is wrong: %v\n%s", err, out)
	}
}

// validate runs the validator, which is a module of its own.
func validate(t *testing.T, files []string) (string, error) {
	t.Helper()
	const module = "../../scripts/tools/ocivalidate"
	find := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec")
	find.Dir = module
	spec, err := find.Output()
	if err != nil {
		t.Fatalf("find the specification's module: %v", err)
	}
	run := exec.CommandContext(t.Context(), "go", append([]string{"run", ".", "-schema", filepath.Join(strings.TrimSpace(string(spec)), "schema")}, files...)...)
	run.Dir = module
	out, err := run.CombinedOutput()
	return string(out), err
}
