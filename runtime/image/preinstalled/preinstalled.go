// Package preinstalled finds out which packages came with an image of Android, from the files of the image.
//
// # Where it looks
//
// Where Android's package manager does when it starts (InitAppsHelper, ScanPartition and PackagePartitions of Android 12 to 15): in app, priv-app
// and overlay of each partition and of each APEX, both the APKs that lie there and those in directories there; and APKs in
// /system/framework. The partitions are /system, /vendor, /odm, /oem, /product and /system_ext, or directories of /system where an image has
// them there. An APEX is flattened, a directory, or packed, a file that holds a file system of its own, and may be compressed once more: all are
// read, where that file system is ext4. Packages.UnreadAPEX tells that there are others.
//
// # What an image cannot do
//
// An image may be hostile. Links are followed inside it only, as its guest would; only regular files are opened; at most 65536 directory entries and
// 8192 APKs are looked at, those in packed APEXes among them, of compressed APEXes 1 GiB when they are unpacked, and of an APK what apk.ReadName bounds. Too many files
// are an error, for then the answer would not be whole. An APK that cannot be read brings no package, as for Android, and is logged.
//
// Nothing is kept between calls, which may be made at the same time.
package preinstalled

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/apk"
)

// Revision changes when the same image may give another answer than before: what an earlier revision has read is to be read again.
const Revision = 2

// Packages are those that came with an image.
type Packages struct {
	// Names has them.
	Names map[string]bool
	// UnreadAPEX is whether the image has packed APEXes that could not be read, whose packages are not in Names.
	UnreadAPEX bool
}

// bounds are how much is looked at.
type bounds struct {
	entries, apks int
	unpacked      int64 // bytes of compressed APEXes
}

// most is more than any Android has, which is some hundreds.
var most = bounds{entries: 1 << 16, apks: 1 << 13, unpacked: maxUnpacked}

// atOnce is how many entries of a directory are in memory.
const atOnce = 256

// partitions are where an image may have its parts, relative to its root.
var partitions = []string{
	"system", "vendor", "odm", "oem", "product", "system_ext",
	"system/vendor", "system/odm", "system/product", "system/system_ext", "vendor/odm",
}

// appDirs are where a partition has its packages, and an APEX.
var appDirs = []string{"app", "priv-app", "overlay"}

// Spool is where compressed APEXes are unpacked, one at a time, while they are looked at.
type Spool struct {
	// Dir is a directory on a disk. What is there has no name, and nothing stays behind.
	Dir string
	// Room is asked before each and as it grows; its error ends the reading. It may be nil.
	Room func() error
}

// Read reads the packages of an image from its root directory, which nobody changes meanwhile. Errors: ErrInvalidArgument of errdefs for an
// image that exceeds the bounds; the context's and Room's; what the file system says.
func Read(ctx context.Context, root *os.File, unpack Spool, logger *slog.Logger) (Packages, error) {
	return read(ctx, root, unpack, logger, most)
}

func read(ctx context.Context, root *os.File, unpack Spool, logger *slog.Logger, most bounds) (Packages, error) {
	s := &scan{most: most, halted: ctx.Err, root: root, spool: unpack, logger: logger, found: Packages{Names: map[string]bool{}}, seen: map[[2]uint64]bool{}}
	for _, partition := range partitions {
		if err := s.partition(partition); err != nil {
			return Packages{}, fmt.Errorf("packages of the image: %w", err)
		}
	}
	if err := s.each("system/framework", s.file); err != nil {
		return Packages{}, fmt.Errorf("packages of the image: %w", err)
	}
	return s.found, nil
}

// scan is one reading of an image.
type scan struct {
	most          bounds
	halted        func() error // tells when to give up
	root          *os.File
	spool         Spool
	logger        *slog.Logger
	found         Packages
	seen          map[[2]uint64]bool // partitions, by device and inode: one may be a link to another
	entries, apks int                // so far
	unpacked      int64              // so far
}

// partition looks at a partition, unless that has been done by another name.
func (s *scan) partition(dir string) error {
	f, err := s.open(dir)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	id := [2]uint64{uint64(st.Dev), st.Ino}
	if s.seen[id] {
		return nil
	}
	s.seen[id] = true
	if err := s.apps(dir); err != nil {
		return err
	}
	return s.each(path.Join(dir, "apex"), s.apex)
}

// apps looks where a partition or an APEX has its packages.
func (s *scan) apps(dir string) error {
	for _, name := range appDirs {
		if err := s.each(path.Join(dir, name), s.app); err != nil {
			return err
		}
	}
	return nil
}

// apex looks at an APEX.
func (s *scan) apex(name string, dir bool) error {
	if dir {
		return s.apps(name)
	}
	if ext := path.Ext(name); ext == ".apex" || ext == ".capex" {
		return s.packed(name)
	}
	return nil
}

// app looks at what may be a package: an APK, or a directory with some.
func (s *scan) app(name string, dir bool) error {
	if dir {
		return s.each(name, s.file)
	}
	return s.file(name, false)
}

// file looks at what may be an APK.
func (s *scan) file(name string, dir bool) error {
	if dir || !strings.HasSuffix(name, ".apk") {
		return nil
	}
	if err := s.countAPK(); err != nil {
		return err
	}
	return s.look(name, func(f *os.File, size int64) error { return s.add(name, f, size) })
}

// look opens a file of the image to be looked at.
func (s *scan) look(name string, at func(f *os.File, size int64) error) error {
	f, err := s.open(name)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return at(f, info.Size())
}

// add adds the package of an APK.
func (s *scan) add(name string, r io.ReaderAt, size int64) error {
	pkg, err := apk.ReadName(r, size)
	switch {
	case errdefs.IsInvalidArgument(err):
		s.logger.Warn("an APK of an image cannot be read, and brings no package", "file", name, "error", err)
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	s.found.Names[pkg] = true
	return nil
}

// errExceeds marks what is more than any image may have.
var errExceeds = fmt.Errorf("more than is looked at: %w", errdefs.ErrInvalidArgument)

// count counts an entry of a directory, and gives up when it is time to.
func (s *scan) count() error {
	if err := s.halted(); err != nil {
		return err
	}
	if s.entries++; s.entries > s.most.entries {
		return fmt.Errorf("it has more than %d files and directories where packages are: %w", s.most.entries, errExceeds)
	}
	return nil
}

// countAPK counts an APK.
func (s *scan) countAPK() error {
	if s.apks++; s.apks > s.most.apks {
		return fmt.Errorf("it has more than %d APKs: %w", s.most.apks, errExceeds)
	}
	return nil
}

// each shows the files and directories that a directory has, following links, and nothing else; nothing where there is no such directory.
func (s *scan) each(dir string, show func(name string, dir bool) error) error {
	f, err := s.open(dir)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(atOnce)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, name := range names {
			if err := s.entry(path.Join(dir, name), show); err != nil {
				return err
			}
		}
	}
}

// entry shows one entry of a directory.
func (s *scan) entry(name string, show func(name string, dir bool) error) error {
	if err := s.count(); err != nil {
		return err
	}
	fd, kind, err := s.name(name)
	if err != nil || fd < 0 {
		return err
	}
	unix.Close(fd)
	return show(name, kind == unix.S_IFDIR)
}

// open opens a file or a directory of the image; nil where there is none, and for what is neither.
func (s *scan) open(name string) (*os.File, error) {
	named, _, err := s.name(name)
	if err != nil || named < 0 {
		return nil, err
	}
	defer unix.Close(named)
	// The descriptor stays the same file, so it is none that does something when it is opened.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(named), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// name finds a regular file or a directory of the image and returns a descriptor that only names it, and its kind; -1 where there is none.
func (s *scan) name(name string) (fd int, kind uint32, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	for {
		fd, err = unix.Openat2(int(s.root.Fd()), name, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENAMETOOLONG):
		return -1, 0, nil // a link to nowhere among them
	case err != nil:
		return -1, 0, fmt.Errorf("open %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("stat %s: %w", name, err)
	}
	if kind = st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		unix.Close(fd)
		return -1, 0, nil
	}
	return fd, kind, nil
}
