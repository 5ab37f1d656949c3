package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// unpackKernel writes, from a vmlinuz of Debian's, what QEMU boots fastest: for amd64 the ELF vmlinux inside the bzImage, which is
// entered through its PVH note without the decompressor; for arm64 the Image, which may be there as it is, or packed.
func unpackKernel(ctx context.Context, arch, vmlinuz, out string) error {
	text, err := os.ReadFile(vmlinuz)
	if err != nil {
		return fmt.Errorf("read the kernel: %w", err)
	}
	switch arch {
	case "amd64":
		var p payload
		if p, err = bzImagePayload(text); err != nil {
			return err
		}
		if text, err = p.unpack(ctx); err != nil {
			return err
		}
		if err := checkPVH(text); err != nil {
			return err
		}
	case "arm64":
		if text, err = arm64Image(ctx, text); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unpack a kernel of %q: want amd64 or arm64: %w", arch, errdefs.ErrNotImplemented)
	}
	if err := os.WriteFile(out, text, 0o644); err != nil {
		return fmt.Errorf("write the kernel: %w", err)
	}
	return nil
}

// payload is the packed kernel inside an image.
type payload struct {
	packed []byte
	// size is how long it is unpacked; 0 if the image does not say.
	size uint32
}

// unpackers tells by the first bytes how a payload is packed, and which program unpacks it.
var unpackers = []struct {
	magic string
	argv  []string
}{
	{"\x1f\x8b", []string{"gzip", "-dc"}},
	{"\xfd7zXZ\x00", []string{"xz", "-dc", "--single-stream"}},
	{"\x28\xb5\x2f\xfd", []string{"zstd", "-dc"}},
}

func (p payload) unpack(ctx context.Context) ([]byte, error) {
	for _, u := range unpackers {
		if !bytes.HasPrefix(p.packed, []byte(u.magic)) {
			continue
		}
		var out bytes.Buffer
		err := host.Run(ctx, host.Command{Name: u.argv[0], Args: u.argv[1:], Stdin: bytes.NewReader(p.packed), Stdout: &out})
		if err != nil {
			return nil, fmt.Errorf("unpack the kernel: %w", err)
		}
		if p.size != 0 && uint32(out.Len()) != p.size {
			return nil, fmt.Errorf("unpack the kernel: %d bytes came out, want %d: %w", out.Len(), p.size, errdefs.ErrDataLoss)
		}
		return out.Bytes(), nil
	}
	return nil, fmt.Errorf("unpack the kernel: its payload begins with %x, want gzip, xz or zstd: %w", p.packed[:min(6, len(p.packed))], errdefs.ErrNotImplemented)
}

// bzImagePayload finds the packed kernel of a bzImage (Documentation/arch/x86/boot.rst of Linux: boot protocol 2.08).
func bzImagePayload(image []byte) (payload, error) {
	bad := func(why string) (payload, error) {
		return payload{}, fmt.Errorf("read the bzImage: %s: %w", why, errdefs.ErrDataLoss)
	}
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return bad("it has no setup header")
	}
	if version := binary.LittleEndian.Uint16(image[0x206:]); version < 0x208 {
		return bad(fmt.Sprintf("its boot protocol is %#x, want 0x208 or newer", version))
	}
	sectors := uint64(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	begin := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(image[0x248:]))
	length := uint64(binary.LittleEndian.Uint32(image[0x24c:]))
	if length < 12 || begin+length > uint64(len(image)) {
		return bad(fmt.Sprintf("its payload is at %d with %d bytes, but it has only %d", begin, length, len(image)))
	}
	packed := image[begin : begin+length]
	if bytes.HasPrefix(packed, []byte(unpackers[0].magic)) {
		return payload{packed: packed}, nil
	}
	// The build appends the size to what has no size of its own; it is part of the payload's length.
	return payload{packed: packed[:length-4], size: binary.LittleEndian.Uint32(packed[length-4:])}, nil
}

// arm64Image gives the Image of a vmlinuz: itself, gzip'ed, or inside an EFI zboot image (include/linux/pe.h and
// drivers/firmware/efi/libstub/zboot-header.S of Linux).
func arm64Image(ctx context.Context, text []byte) ([]byte, error) {
	var err error
	switch {
	case bytes.HasPrefix(text, []byte(unpackers[0].magic)):
		text, err = payload{packed: text}.unpack(ctx)
	case len(text) > 0x40 && string(text[4:8]) == "zimg":
		begin, length := uint64(binary.LittleEndian.Uint32(text[8:])), uint64(binary.LittleEndian.Uint32(text[12:]))
		if begin+length > uint64(len(text)) || length < 12 {
			return nil, fmt.Errorf("read the EFI image: its payload is at %d with %d bytes, but it has only %d: %w", begin, length, len(text), errdefs.ErrDataLoss)
		}
		p := payload{packed: text[begin : begin+length]}
		if name := strings.TrimRight(string(text[24:56]), "\x00"); !strings.HasPrefix(name, "gzip") {
			p.packed = p.packed[:length-4]
			p.size = binary.LittleEndian.Uint32(text[begin+length-4:])
		}
		text, err = p.unpack(ctx)
	}
	if err != nil {
		return nil, err
	}
	if len(text) < 0x40 || string(text[0x38:0x3c]) != "ARM\x64" {
		return nil, fmt.Errorf("read the arm64 kernel: it is no Image: %w", errdefs.ErrDataLoss)
	}
	return text, nil
}

// checkPVH sees to it that QEMU can enter the kernel directly: it must have the note XEN_ELFNOTE_PHYS32_ENTRY.
func checkPVH(vmlinux []byte) error {
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return fmt.Errorf("read the unpacked kernel: %w: %w", errdefs.ErrDataLoss, err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_NOTE || prog.Filesz > uint64(len(vmlinux)) {
			continue
		}
		notes := make([]byte, prog.Filesz)
		if _, err := prog.ReadAt(notes, 0); err != nil {
			return fmt.Errorf("read the notes of the kernel: %w", err)
		}
		if hasNote(notes, "Xen", 18) {
			return nil
		}
	}
	return fmt.Errorf("the kernel has no PVH note (CONFIG_PVH), which QEMU needs to start it: %w", errdefs.ErrNotImplemented)
}

// hasNote looks for a note by its owner and type among ELF notes, aligned to four bytes.
func hasNote(notes []byte, owner string, kind uint32) bool {
	round := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize, size := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:])
		found := binary.LittleEndian.Uint32(notes[8:])
		next := 12 + round(nameSize) + round(size)
		if 12+uint64(nameSize) > uint64(len(notes)) {
			return false
		}
		if found == kind && strings.TrimRight(string(notes[12:12+nameSize]), "\x00") == owner {
			return true
		}
		if next > uint64(len(notes)) {
			return false
		}
		notes = notes[next:]
	}
	return false
}
