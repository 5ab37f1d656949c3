package lab

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// elfFile is an ELF file with one section called name, and with notes in a segment.
func elfFile(t testing.TB, name string, section, notes []byte) []byte {
	t.Helper()
	const headers = 64 + 56
	names := "\x00" + name + "\x00"
	size := uint64(len(section) + len(notes) + len(names))
	h := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: 2, Machine: 62, Version: 1, Phoff: 64, Shoff: headers + size,
		Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	notesAt := uint64(headers + len(section))
	p := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: notesAt, Filesz: uint64(len(notes)), Memsz: uint64(len(notes)), Align: 4}
	sections := []elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headers, Size: uint64(len(section))},
		{Name: 0, Type: uint32(elf.SHT_STRTAB), Off: notesAt + uint64(len(notes)), Size: uint64(len(names))}}
	var out bytes.Buffer
	for _, part := range []any{h, p, section, notes, []byte(names), sections} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// note is one ELF note.
func note(owner string, kind uint32, text string) []byte {
	le := binary.LittleEndian
	out := le.AppendUint32(nil, uint32(len(owner)+1))
	out = le.AppendUint32(out, uint32(len(text)))
	out = le.AppendUint32(out, kind)
	out = append(out, owner+"\x00"+zeros(len(owner)+1)...)
	return append(out, text+zeros(len(text))...)
}

// bzImage is an x86 kernel image around a payload.
func bzImage(packed []byte) []byte {
	const sectors = 4
	image := make([]byte, (sectors+1)*512+16)
	image[0x1f1] = sectors
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(image[0x248:], 16)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(packed)))
	return append(append(image, packed...), "what follows"...)
}

// packed compresses by a program of the host, or by Go for gzip.
func packed(t testing.TB, program string, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if program == "gzip" {
		w := gzip.NewWriter(&out)
		w.Write(text)
		w.Close()
		return out.Bytes()
	}
	if _, err := host.Look(program); err != nil {
		t.Skip(err)
	}
	if err := host.Run(t.Context(), host.Command{Name: program, Args: []string{"-c"}, Stdin: bytes.NewReader(text), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sized appends the size of what was packed, as the kernel's build does.
func sized(packed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(packed), uint32(size))
}

func unpacked(t *testing.T, arch string, image []byte) ([]byte, error) {
	t.Helper()
	in, out := filepath.Join(t.TempDir(), "vmlinuz"), filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(in, image, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unpackKernel(t.Context(), arch, in, out); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return text, nil
}

func TestUnpackAMD64(t *testing.T) {
	vmlinux := elfFile(t, ".text", []byte("code"), append(note("GNU", 3, "build"), note("Xen", 18, "\x00\x10\x00\x00")...))
	for _, program := range []string{"xz", "zstd", "gzip"} {
		t.Run(program, func(t *testing.T) {
			p := packed(t, program, vmlinux)
			if program != "gzip" {
				p = sized(p, len(vmlinux))
			}
			got, err := unpacked(t, "amd64", bzImage(p))
			if err != nil || !bytes.Equal(got, vmlinux) {
				t.Errorf("%d bytes, %v, want %d", len(got), err, len(vmlinux))
			}
		})
	}
	plain := elfFile(t, ".text", []byte("code"), note("GNU", 3, "build"))
	whole := bzImage(sized(packed(t, "zstd", vmlinux), len(vmlinux)))
	for name, tt := range map[string]struct {
		image []byte
		class func(error) bool
		words string
	}{
		"no image":         {[]byte("MZ"), errdefs.IsDataLoss, "setup header"},
		"no header":        {make([]byte, 4096), errdefs.IsDataLoss, "setup header"},
		"truncated":        {whole[:len(whole)-20], errdefs.IsDataLoss, "payload"},
		"another size":     {bzImage(sized(packed(t, "zstd", vmlinux), 7)), errdefs.IsDataLoss, "want 7"},
		"unknown packer":   {bzImage([]byte("BZh9............")), errdefs.IsNotImplemented, "payload begins"},
		"no PVH":           {bzImage(sized(packed(t, "zstd", plain), len(plain))), errdefs.IsNotImplemented, "PVH"},
		"no kernel inside": {bzImage(sized(packed(t, "zstd", []byte("text")), 4)), errdefs.IsDataLoss, "unpacked kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpacked(t, "amd64", tt.image); err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUnpackARM64(t *testing.T) {
	image := make([]byte, 256)
	copy(image[0x38:], "ARM\x64")
	zboot := func(kind string, p []byte) []byte {
		h := make([]byte, 64)
		copy(h, "MZ\x00\x00zimg")
		binary.LittleEndian.PutUint32(h[8:], 64)
		binary.LittleEndian.PutUint32(h[12:], uint32(len(p)))
		copy(h[24:], kind)
		return append(append(h, p...), "what follows"...)
	}
	for name, in := range map[string][]byte{
		"as it is":      image,
		"gzip":          packed(t, "gzip", image),
		"EFI with gzip": zboot("gzip", packed(t, "gzip", image)),
		"EFI with zstd": zboot("zstd22", sized(packed(t, "zstd", image), len(image))),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := unpacked(t, "arm64", in); err != nil || !bytes.Equal(got, image) {
				t.Errorf("%d bytes, %v, want %d", len(got), err, len(image))
			}
		})
	}
	for name, in := range map[string][]byte{"no kernel": make([]byte, 100), "empty": nil, "gzip of no kernel": packed(t, "gzip", []byte("x"))} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpacked(t, "arm64", in); !errdefs.IsDataLoss(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := unpacked(t, "riscv64", image); !errdefs.IsNotImplemented(err) {
		t.Errorf("another architecture: %v", err)
	}
}

func FuzzBzImagePayload(f *testing.F) {
	f.Add(bzImage([]byte("payload of a kernel")))
	f.Fuzz(func(t *testing.T, image []byte) {
		p, err := bzImagePayload(image)
		if err == nil && len(p.packed) < 8 {
			t.Errorf("a payload of %d bytes", len(p.packed))
		}
	})
}

func FuzzHasNote(f *testing.F) {
	f.Add(append(note("GNU", 3, "abc"), note("Xen", 18, "x")...))
	f.Fuzz(func(t *testing.T, notes []byte) { hasNote(notes, "Xen", 18) })
}

func FuzzParseModule(f *testing.F) {
	f.Add(elfFile(f, ".modinfo", []byte("depends=a,b\x00softdep=pre: c post: d\x00"), nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := parseModule(text); err == nil && len(m.text) != len(text) {
			t.Error("the text of the module is another")
		}
	})
}

// moduleFiles makes a tree of modules: name to what they say of themselves.
func moduleFiles(t *testing.T, modules map[string]string, builtin string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "lib", "modules", "6.12.1-test")
	for name, info := range modules {
		text := elfFile(t, ".modinfo", []byte(strings.ReplaceAll(info, ";", "\x00")+"\x00"), nil)
		if strings.HasSuffix(name, ".xz") {
			text = packed(t, "xz", text)
		}
		if err := writeFile(filepath.Join(dir, name), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFile(filepath.Join(dir, "modules.builtin"), []byte(builtin)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestModules(t *testing.T) {
	stock := moduleFiles(t, map[string]string{
		"kernel/fs/ext4.ko.xz":            "license=GPL;depends=jbd2,mbcache;softdep=pre: crc32c-generic not-there",
		"kernel/fs/jbd2.ko.xz":            "depends=",
		"kernel/fs/mbcache.ko":            "depends=",
		"kernel/crypto/crc32c-generic.ko": "depends=",
		"kernel/android/binder_linux.ko":  "depends=",
		"kernel/media/vb2-common.ko":      "depends=",
		"kernel/media/vb2-v4l2.ko":        "depends=vb2-common",
		"kernel/bad/lost.ko":              "depends=gone",
	}, "kernel/drivers/virtio/virtio.ko\nkernel/lib/crc32c.ko\n")
	extra := moduleFiles(t, map[string]string{"binder_linux.ko": "depends=", "vicodec.ko": "depends=vb2-v4l2,virtio"}, "")
	tree, err := openModules(stock, extra)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		want     []string
		optional bool
		names    []string
		order    []string
		err      string
	}{
		"dependencies come first":   {want: []string{"ext4"}, names: []string{"ext4"}, order: []string{"crc32c_generic", "jbd2", "mbcache", "ext4"}},
		"built in":                  {want: []string{"virtio"}},
		"dashes are underscores":    {want: []string{"vb2_v4l2", "crc32c-generic"}, names: []string{"vb2_v4l2", "crc32c_generic"}, order: []string{"vb2_common", "vb2_v4l2", "crc32c_generic"}},
		"pattern":                   {want: []string{"vb2-*"}, names: []string{"vb2_common", "vb2_v4l2"}, order: []string{"vb2_common", "vb2_v4l2"}},
		"out of the tree":           {want: []string{"vicodec"}, names: []string{"vicodec"}, order: []string{"vb2_common", "vb2_v4l2", "vicodec"}},
		"in the tree and out of it": {want: []string{"binder*"}, names: []string{"binder_linux"}, order: []string{"binder_linux"}},
		"missing":                   {want: []string{"nothing"}, err: `"nothing"`},
		"missing but optional":      {want: []string{"nothing", "jbd2"}, optional: true, names: []string{"jbd2"}, order: []string{"jbd2"}},
		"missing dependency":        {want: []string{"lost"}, names: []string{"lost"}, err: "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			names, err := tree.want(tt.want, tt.optional)
			var order []string
			if err == nil {
				order, err = tree.order(t.Context(), names)
			}
			if tt.err != "" {
				if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([][]string{tt.names, tt.order}, [][]string{names, order}); diff != "" {
				t.Error(diff)
			}
		})
	}
	if from, to := tree.path("binder_linux"); from != filepath.Join(extra, "binder_linux.ko") || to != "updates/binder_linux.ko" {
		t.Errorf("binder_linux comes from %s and goes to %s", from, to)
	}
	if _, to := tree.path("ext4"); to != "kernel/fs/ext4.ko" {
		t.Errorf("ext4 goes to %s", to)
	}
	t.Run("image", func(t *testing.T) { testModulesImage(t, tree) })
}

func testModulesImage(t *testing.T, tree *moduleTree) {
	for _, program := range []string{"depmod", "mke2fs", "debugfs"} {
		if _, err := host.Look(program); err != nil {
			t.Skip(err)
		}
	}
	out := filepath.Join(t.TempDir(), "modules.ext4")
	if err := tree.image(t.Context(), []string{"jbd2", "mbcache", "ext4", "binder_linux"}, out); err != nil {
		t.Fatal(err)
	}
	deps, err := host.Output(t.Context(), "debugfs", "-R", "cat modules.dep", out)
	if err != nil || !strings.Contains(string(deps), "kernel/fs/ext4.ko:") || !strings.Contains(string(deps), "updates/binder_linux.ko:") {
		t.Errorf("modules.dep is %q, %v", deps, err)
	}
	if strings.Contains(string(deps), "vicodec") {
		t.Errorf("a module that was not asked for is in modules.dep: %q", deps)
	}
}

func TestFindKernel(t *testing.T) {
	for name, tt := range map[string]struct {
		files []string
		ok    bool
	}{
		"Debian 12":   {[]string{"boot/vmlinuz-6.1", "lib/modules/6.1/modules.order"}, true},
		"since 6.17":  {[]string{"usr/lib/modules/7.3/vmlinuz", "usr/lib/modules/7.3/modules.order"}, true},
		"two kernels": {[]string{"boot/vmlinuz-6.1", "boot/vmlinuz-6.2", "lib/modules/6.1/modules.order"}, false},
		"no modules":  {[]string{"boot/vmlinuz-6.1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range tt.files {
				if err := writeFile(filepath.Join(dir, f), nil); err != nil {
					t.Fatal(err)
				}
			}
			vmlinuz, modules, err := findKernel(dir)
			if (err == nil) != tt.ok || (err != nil && !strings.Contains(err.Error(), "lab.toml")) {
				t.Errorf("found %q and %q, %v", vmlinuz, modules, err)
			}
		})
	}
}
