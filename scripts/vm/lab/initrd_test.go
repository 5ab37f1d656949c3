package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// TestInitrd fills an initrd and lets busybox, as the kernel would, unpack it.
func TestInitrd(t *testing.T) {
	if _, err := host.Look("busybox"); err != nil {
		t.Skip(err)
	}
	from := t.TempDir()
	content := map[string]string{"guest": "guest\n", "busybox": "busy", "early/order": "b\na\n", "early/a.ko": "A", "early/b.ko": "BBB"}
	for name, text := range content {
		if err := writeFile(filepath.Join(from, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	pack := func() []byte {
		t.Helper()
		var out bytes.Buffer
		c := newCPIO(&out)
		if err := fillInitrd(c, filepath.Join(from, "guest"), filepath.Join(from, "busybox"), filepath.Join(from, "early")); err != nil {
			t.Fatal(err)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	text := pack()
	if len(text)%4 != 0 || !bytes.Equal(text, pack()) {
		t.Errorf("%d bytes, or two that differ", len(text))
	}
	if !bytes.Contains(text, []byte("00000005"+"00000001"+"0000000C"+"00000000"+"dev/console\x00")) {
		t.Error("dev/console is not the device 5, 1")
	}
	list, err := output(t, text, "-tv")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"crw------- 0/0", "drwxrwxrwt", "bin/sh -> busybox"} {
		if !strings.Contains(list, want) {
			t.Errorf("the list lacks %q:\n%s", want, list)
		}
	}
	dir := t.TempDir()
	t.Chdir(dir)
	// Without dev/console, which only root can make.
	if _, err := output(t, text, "-i", "init", "bin/busybox", "modules/a.ko", "modules/b.ko", "modules.order-of-load"); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, from := range map[string]string{"init": "guest", "bin/busybox": "busybox", "modules/a.ko": "early/a.ko", "modules/b.ko": "early/b.ko", "modules.order-of-load": "early/order"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		got[from] = string(text)
	}
	if diff := cmp.Diff(content, got); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(filepath.Join(dir, "init")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("init: %v, %v", info, err)
	}
}

// output is what busybox's cpio says of an archive.
func output(t *testing.T, archive []byte, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := host.Run(t.Context(), host.Command{Name: "busybox", Args: append([]string{"cpio", "-d"}, args...), Stdin: bytes.NewReader(archive), Stdout: &out})
	return out.String(), err
}
