// Package waydroid turns Waydroid's two images, system.img and vendor.img, into the layers of a container image.
//
// Waydroid mounts system.img as the root file system and vendor.img at /vendor (tools/helpers/images.py): system.img is the lower
// layer here and vendor.img, below vendor/, the upper one. Both are ext4, raw or as Android's sparse images. Spool takes one from a
// stream into a file that has no name; Open reads what the two say of themselves; WriteSystem and WriteVendor write the layers.
//
// The images are trusted in nothing; every error that is their fault is of class errdefs.ErrInvalidArgument and names the image and,
// where it can, the file in it.
package waydroid

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/image/ext4"
)

// The images by their usual names.
const (
	SystemName = "system.img"
	VendorName = "vendor.img"
)

// Images are the two images, opened.
type Images struct {
	// Release is the version of Android ("13") and SDK its API level (33).
	Release string
	SDK     int
	// Arch is what the programs are for, as GOARCH names it: "arm64" or "amd64".
	Arch string

	system, vendor tree
	covered        bool // the system has something below /vendor, which the vendor's mount would hide
}

// tree is one image's file system.
type tree struct {
	name string // of the image
	fs   *ext4.FS
}

// Source is an image file.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Open reads both images as far as they describe themselves.
func Open(system, vendor Source) (*Images, error) {
	m := &Images{system: tree{name: SystemName}, vendor: tree{name: VendorName}}
	var err error
	if m.system.fs, err = ext4.Open(system, system.Size()); err != nil {
		return nil, m.system.wrap(err)
	}
	if m.vendor.fs, err = ext4.Open(vendor, vendor.Size()); err != nil {
		return nil, m.vendor.wrap(err)
	}
	if err := m.checkLayout(); err != nil {
		return nil, err
	}
	if err := m.readVersion(); err != nil {
		return nil, m.system.wrap(err)
	}
	if err := m.readArch(); err != nil {
		return nil, m.system.wrap(err)
	}
	return m, nil
}

func (t tree) wrap(err error) error { return fmt.Errorf("%s: %w", t.name, err) }

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// checkLayout makes sure that the two are what they are called.
func (m *Images) checkLayout() error {
	const buildProp = "system/build.prop"
	if _, err := m.system.find(buildProp); errors.Is(err, errNone) {
		if _, other := m.vendor.find(buildProp); other == nil {
			return invalid("the two images are the wrong way round: %s has /%s, which belongs in %s", VendorName, buildProp, SystemName)
		}
		return m.system.wrap(invalid("it has no /%s: it is not the root file system that Waydroid's is", buildProp))
	} else if err != nil {
		return m.system.wrap(err)
	}
	if _, err := m.vendor.find("build.prop"); errors.Is(err, errNone) {
		return m.vendor.wrap(invalid("it has no /build.prop: it is no vendor image"))
	} else if err != nil {
		return m.vendor.wrap(err)
	}
	dir, err := m.system.entry(ext4.Root, "vendor")
	if errors.Is(err, errNone) || err == nil && dir.Kind != ext4.KindDir {
		return m.system.wrap(invalid("its /vendor is no directory, over which %s would be mounted", VendorName))
	}
	if err != nil {
		return m.system.wrap(err)
	}
	err = m.system.fs.ReadDir(dir, func(ext4.Entry) error {
		m.covered = true
		return nil
	})
	if err != nil {
		return m.system.wrap(err)
	}
	return nil
}

// readVersion reads the version of Android out of the properties of the build.
func (m *Images) readVersion() error {
	text, err := m.system.read("system/build.prop", maxProperties)
	if errors.Is(err, errTooLong) {
		return invalid("/system/build.prop is more than %d bytes", maxProperties)
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ro.build.version.release", "ro.system.build.version.release":
			if m.Release == "" {
				m.Release = value
			}
		case "ro.build.version.sdk", "ro.system.build.version.sdk":
			if m.SDK == 0 {
				m.SDK, _ = strconv.Atoi(value)
			}
		}
	}
	if m.Release == "" || len(m.Release) > 32 || m.SDK < 1 || m.SDK > 10000 {
		return invalid("/system/build.prop does not say its version: ro.build.version.release is %.40q, ro.build.version.sdk %d", m.Release, m.SDK)
	}
	return nil
}

const (
	maxProperties = 1 << 20
	// maxProgram bounds how much of init is read to see what it is for.
	maxProgram = 64
)

// readArch reads from Android's init what processor it is for.
func (m *Images) readArch() error {
	const program = "system/bin/init"
	head, err := m.system.read(program, maxProgram)
	if errors.Is(err, errTooLong) {
		err = nil
	}
	if err != nil {
		return err
	}
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return invalid("/%s is no ELF program", program)
	}
	machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	switch {
	case machine == elf.EM_AARCH64 && head[elf.EI_CLASS] == byte(elf.ELFCLASS64):
		m.Arch = "arm64"
	case machine == elf.EM_X86_64 && head[elf.EI_CLASS] == byte(elf.ELFCLASS64):
		m.Arch = "amd64"
	default:
		return invalid("/%s is for %v, %v: want a 64-bit Android for arm64 or x86_64", program, machine, elf.Class(head[elf.EI_CLASS]))
	}
	return nil
}

var (
	errNone    = errors.New("there is no such file")
	errTooLong = errors.New("the file is longer")
)

// entry finds a name in a directory.
func (t tree) entry(dir uint32, name string) (ext4.Inode, error) {
	in, err := t.fs.Inode(dir)
	if err != nil {
		return ext4.Inode{}, err
	}
	found := uint32(0)
	err = t.fs.ReadDir(in, func(e ext4.Entry) error {
		if e.Name == name {
			found = e.Inode
		}
		return nil
	})
	if err != nil {
		return ext4.Inode{}, err
	}
	if found == 0 {
		return ext4.Inode{}, errNone
	}
	return t.fs.Inode(found)
}

// find walks to a file without following links.
func (t tree) find(path string) (ext4.Inode, error) {
	in := ext4.Inode{Number: ext4.Root, Kind: ext4.KindDir}
	for name := range strings.SplitSeq(path, "/") {
		if in.Kind != ext4.KindDir {
			return in, errNone
		}
		var err error
		if in, err = t.entry(in.Number, name); err != nil {
			return in, err
		}
	}
	return in, nil
}

// read returns the content of a file, or, with errTooLong, its first limit bytes.
func (t tree) read(path string, limit int) ([]byte, error) {
	in, err := t.find(path)
	if errors.Is(err, errNone) {
		return nil, invalid("it has no /%s", path)
	}
	if err != nil {
		return nil, err
	}
	head := &head{limit: limit}
	if err := t.fs.Copy(head, in); err != nil && !errors.Is(err, errTooLong) {
		return nil, fmt.Errorf("/%s: %w", path, err)
	} else if err != nil {
		return head.data, err
	}
	return head.data, nil
}

// head keeps the first bytes that are written to it, and then fails.
type head struct {
	data  []byte
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.limit-len(h.data))
	h.data = append(h.data, p[:n]...)
	if n < len(p) {
		return n, errTooLong
	}
	return n, nil
}
