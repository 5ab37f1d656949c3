package applet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

func basename(_ context.Context, s Streams, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usage("basename PATH [SUFFIX]")
	}
	base := filepath.Base(args[0])
	if len(args) == 2 && base != args[1] {
		base = strings.TrimSuffix(base, args[1])
	}
	fmt.Fprintln(s.Out, base)
	return nil
}

func dirname(_ context.Context, s Streams, args []string) error {
	if len(args) != 1 {
		return usage("dirname PATH")
	}
	fmt.Fprintln(s.Out, filepath.Dir(args[0]))
	return nil
}

func pwd(_ context.Context, s Streams, _ []string) error {
	dir, err := os.Getwd()
	if err == nil {
		fmt.Fprintln(s.Out, dir)
	}
	return err
}

// parseSize reads a number of bytes with a unit: none, k, M, G (powers of 1024), also as KiB, MiB, GiB.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "kKMGiB")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	switch strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(text[len(digits):], "B"), "i")) {
	case "":
		return n, nil
	case "K":
		return n << 10, nil
	case "M":
		return n << 20, nil
	case "G":
		return n << 30, nil
	}
	return 0, fmt.Errorf("%q is not a size", text)
}

func dd(ctx context.Context, s Streams, args []string) error {
	in, out, block, count, skip := s.In, s.Out, int64(512), int64(-1), int64(0)
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		var err error
		switch key {
		case "if":
			var f *os.File
			if f, err = os.Open(value); err == nil {
				defer f.Close()
				in = f
			}
		case "of":
			var f *os.File
			if f, err = os.Create(value); err == nil {
				defer f.Close()
				out = f
			}
		case "bs":
			block, err = parseSize(value)
		case "count":
			count, err = parseSize(value)
		case "skip":
			skip, err = parseSize(value)
		default:
			return usage("dd [if=FILE] [of=FILE] [bs=SIZE] [count=N] [skip=N]")
		}
		if err != nil {
			return err
		}
	}
	if block < 1 || block > 64<<20 {
		return fmt.Errorf("block of %d bytes", block)
	}
	if _, err := io.CopyN(io.Discard, in, skip*block); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	blocks, total, err := copyBlocks(ctx, out, in, make([]byte, block), count)
	fmt.Fprintf(s.Err, "%d blocks, %d bytes\n", blocks, total)
	return err
}

// copyBlocks copies up to count blocks, all when count is negative.
func copyBlocks(ctx context.Context, out io.Writer, in io.Reader, buf []byte, count int64) (blocks, total int64, err error) {
	for count < 0 || blocks < count {
		n, readErr := io.ReadFull(in, buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return blocks, total, err
			}
			blocks, total = blocks+1, total+int64(n)
		}
		if readErr != nil {
			if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
				readErr = nil
			}
			return blocks, total, readErr
		}
		if err := ctx.Err(); err != nil {
			return blocks, total, err
		}
	}
	return blocks, total, nil
}

func df(_ context.Context, s Streams, args []string) error {
	args, err := options(args, "df [-h] [PATH...]", func(f *flag.FlagSet) { f.Bool("h", false, ""); f.Bool("k", false, "") })
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"/", "/data"}
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "Path\tKiB\tUsed\tAvailable\tUse%\tInodes\tFree")
	for _, path := range args {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		kib := func(blocks uint64) uint64 { return blocks * uint64(st.Bsize) / 1024 }
		used, percent := st.Blocks-st.Bfree, uint64(0)
		if used+st.Bavail > 0 {
			percent = (used*100 + used + st.Bavail - 1) / (used + st.Bavail)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d%%\t%d\t%d\n", path, kib(st.Blocks), kib(used), kib(st.Bavail), percent, st.Files, st.Ffree)
	}
	return nil
}

func du(ctx context.Context, s Streams, args []string) error {
	var summary bool
	args, err := options(args, "du [-s] [PATH...]", func(f *flag.FlagSet) { f.BoolVar(&summary, "s", false, "") })
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, root := range args {
		if _, err := usedBelow(ctx, s.Out, root, summary, true); err != nil {
			return err
		}
	}
	return nil
}

// usedBelow returns the 512-byte blocks of a file or tree and prints KiB for directories.
func usedBelow(ctx context.Context, out io.Writer, path string, summary, top bool) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	total, dir := st.Blocks, st.Mode&unix.S_IFMT == unix.S_IFDIR
	if dir {
		entries, err := os.ReadDir(path)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			n, err := usedBelow(ctx, out, filepath.Join(path, e.Name()), summary, false)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	if top || dir && !summary {
		fmt.Fprintf(out, "%d\t%s\n", total/2, path)
	}
	return total, ctx.Err()
}

func ln(_ context.Context, _ Streams, args []string) error {
	var symbolic, force bool
	const how = "ln [-s] [-f] TARGET LINK"
	args, err := options(args, how, func(f *flag.FlagSet) {
		f.BoolVar(&symbolic, "s", false, "")
		f.BoolVar(&force, "f", false, "")
	})
	if err != nil {
		return err
	}
	if len(args) != 2 {
		return usage(how)
	}
	link := args[1]
	if info, err := os.Stat(link); err == nil && info.IsDir() {
		link = filepath.Join(link, filepath.Base(args[0]))
	}
	if force {
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if symbolic {
		return os.Symlink(args[0], link)
	}
	return os.Link(args[0], link)
}

// mount prints what is mounted; mounting needs capabilities that no phone has.
func mount(_ context.Context, s Streams, args []string) error {
	if len(args) != 0 {
		return usage("mount (prints what is mounted)")
	}
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 4 {
			fmt.Fprintf(s.Out, "%s on %s type %s (%s)\n", f[0], f[1], f[2], f[3])
		}
	}
	return nil
}

func readlink(_ context.Context, s Streams, args []string) error {
	var follow bool
	args, err := options(args, "readlink [-f] PATH", func(f *flag.FlagSet) { f.BoolVar(&follow, "f", false, "") })
	if err != nil {
		return err
	}
	if len(args) != 1 {
		return usage("readlink [-f] PATH")
	}
	var target string
	if follow {
		if target, err = filepath.EvalSymlinks(args[0]); err == nil {
			target, err = filepath.Abs(target)
		}
	} else {
		target, err = os.Readlink(args[0])
	}
	if err == nil {
		fmt.Fprintln(s.Out, target)
	}
	return err
}

func rmdir(_ context.Context, _ Streams, args []string) error {
	if len(args) == 0 {
		return usage("rmdir DIR...")
	}
	for _, dir := range args {
		if err := unix.Rmdir(dir); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// stat prints what the file system knows of files; -c takes toybox's %s size, %a mode, %u and %g owner, %Y time of change, %n name, and
// -L follows links.
func stat(_ context.Context, s Streams, args []string) error {
	const form = "stat [-L] [-c FORMAT] PATH..."
	look, format := os.Lstat, ""
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch {
		case args[0] == "-L":
			look = os.Stat
		case args[0] == "-c" && len(args) > 1:
			format, args = args[1], args[1:]
		default:
			return usage(form)
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return usage(form)
	}
	for _, path := range args {
		info, err := look(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if format != "" {
			fmt.Fprintln(s.Out, strings.NewReplacer(
				"%s", strconv.FormatInt(st.Size, 10), "%a", strconv.FormatUint(uint64(st.Mode&0o7777), 8),
				"%u", strconv.FormatUint(uint64(st.Uid), 10), "%g", strconv.FormatUint(uint64(st.Gid), 10),
				"%Y", strconv.FormatInt(st.Mtim.Sec, 10), "%n", path, "%%", "%",
			).Replace(format))
			continue
		}
		fmt.Fprintf(s.Out, "  File: %s\n  Size: %d\t Blocks: %d\t IO Blocks: %d\n", path, st.Size, st.Blocks, st.Blksize)
		fmt.Fprintf(s.Out, "Device: %d:%d\t Inode: %d\t Links: %d\n", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino, st.Nlink)
		fmt.Fprintf(s.Out, "Access: (%04o/%s)\t Uid: %d\t Gid: %d\n", st.Mode&0o7777, info.Mode(), st.Uid, st.Gid)
		fmt.Fprintf(s.Out, "Modify: %s\n", info.ModTime().Format(time.RFC3339Nano))
	}
	return nil
}

func syncFiles(context.Context, Streams, []string) error {
	unix.Sync()
	return nil
}

// chown gives files another owner: numbers alone, as the guest has no names.
func chown(_ context.Context, _ Streams, args []string) error {
	const form = "chown UID[:GID] PATH..."
	if len(args) < 2 {
		return usage(form)
	}
	user, group, both := strings.Cut(args[0], ":")
	uid, err := strconv.ParseUint(user, 10, 31)
	gid := uint64(1<<64 - 1) // as it is
	if err == nil && both {
		gid, err = strconv.ParseUint(group, 10, 31)
	}
	if err != nil {
		return usage(form)
	}
	for _, path := range args[1:] {
		if err := os.Chown(path, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}
