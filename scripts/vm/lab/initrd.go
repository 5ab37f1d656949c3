package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/phonehost/phonehost/scripts/vm/debian"
)

const (
	initrdRecipe = "initrd 1"
	initrdFile   = "initrd.cpio"
)

// initrdDirs are the directories of an initrd.
var initrdDirs = []string{"bin", "dev", "etc", "lib", "lib/modules", "modules", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/sbin", "var"}

// Initrd is the initrd for a kernel, built if it is not in the cache: the same for both kinds of machine.
//
// Its content, all of root's:
//
//	/init                    vm-guest
//	/bin/busybox, /bin/sh    busybox; its other commands appear by `busybox --install -s`
//	/modules/NAME.ko         the modules to load before a root can be mounted
//	/modules.order-of-load   their names, one a line, in the order to load them in
//	/dev/console             for the kernel, which opens it for /init
//	and empty directories:   /dev /etc /lib/modules /proc /root /run /sbin /sys /tmp /usr/bin /usr/lib /usr/sbin /var
func (l *Lab) Initrd(ctx context.Context, k Kernel) (Initrd, error) {
	guest, guestKey, err := l.Guest(ctx, k.Arch)
	if err != nil {
		return Initrd{}, err
	}
	path, key, err := l.asset(ctx, recipe{
		name: "initrd-" + k.Series + "-" + k.Arch,
		set:  initrdSet, arch: k.Arch,
		parts: []string{initrdRecipe, string(guestKey), string(k.Key)},
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			return l.buildInitrd(ctx, dir, k, guest, packages)
		},
	})
	if err != nil {
		return Initrd{}, fmt.Errorf("initrd of kernel %s for %s: %w", k.Series, k.Arch, err)
	}
	return Initrd{Path: filepath.Join(path, initrdFile), Key: key}, nil
}

func (l *Lab) buildInitrd(ctx context.Context, dir string, k Kernel, guest string, packages debian.Resolution) error {
	scratch := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return fmt.Errorf("unpack busybox: %w", err)
	}
	for _, p := range packages.Packages {
		if err := l.archive.Extract(ctx, p, scratch); err != nil {
			return err
		}
	}
	busybox := filepath.Join(scratch, "bin", "busybox")
	if _, err := os.Stat(busybox); err != nil {
		busybox = filepath.Join(scratch, "usr", "bin", "busybox") // where later releases have it
	}
	out, err := os.Create(filepath.Join(dir, initrdFile))
	if err != nil {
		return fmt.Errorf("write an initrd: %w", err)
	}
	defer out.Close()
	c := newCPIO(out)
	if err := fillInitrd(c, guest, busybox, filepath.Join(filepath.Dir(k.Image), earlyDir)); err != nil {
		return fmt.Errorf("fill an initrd: %w", err)
	}
	if err := c.close(); err != nil {
		return fmt.Errorf("write an initrd: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write an initrd: %w", err)
	}
	if err := os.RemoveAll(scratch); err != nil {
		return fmt.Errorf("remove an unpacked busybox: %w", err)
	}
	return nil
}

// fillInitrd writes the content of an initrd: two programs, and the modules of the directory early.
func fillInitrd(c *cpio, guest, busybox, early string) error {
	for _, d := range initrdDirs {
		mode := uint32(0o755)
		if d == "tmp" {
			mode = 0o1777
		}
		c.dir(d, mode)
	}
	c.character("dev/console", 0o600, 5, 1)
	c.link("bin/sh", "busybox")
	if err := addFile(c, "init", 0o755, guest); err != nil {
		return err
	}
	if err := addFile(c, "bin/busybox", 0o755, busybox); err != nil {
		return err
	}
	order, err := os.ReadFile(filepath.Join(early, orderFile))
	if err != nil {
		return err
	}
	c.file("modules.order-of-load", 0o644, order)
	for name := range strings.FieldsSeq(string(order)) {
		if err := addFile(c, "modules/"+name+".ko", 0o644, filepath.Join(early, name+".ko")); err != nil {
			return err
		}
	}
	return nil
}

func addFile(c *cpio, name string, mode uint32, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.file(name, mode, text)
	return nil
}
