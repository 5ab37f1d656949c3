package displayroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Program is where the binary stands in a display's root.
const Program = "/phone-display"

// mountpoints are the empty directories that a display's mounts need in a root that cannot be written.
var mountpoints = []string{"proc", "dev", "wayland", "control"}

// Config says what to assemble.
type Config struct {
	// Dir holds the roots; it is made when it is not there.
	Dir string
	// Binary is the program's path on the host.
	Binary string
	// Sonames are libraries that the program opens by dlopen, such as "libavcodec.so.59".
	Sonames []string
	// Program is where the binary stands in the root, and Mountpoints the empty directories that mounts need there, as relative paths;
	// the zero values are a display's. Roots of one Dir have the same.
	Program     string
	Mountpoints []string
}

// Assemble returns the root for the binary and libraries as they are now, and builds it when it is not there yet.
//
// Errors: ErrNotFound of errdefs names a library that the host does not have.
func Assemble(ctx context.Context, config Config) (string, error) {
	if config.Program == "" {
		config.Program, config.Mountpoints = Program, mountpoints
	}
	files, err := closure(config.Binary, config.Sonames, loaderDirs("/"))
	if err != nil {
		return "", fmt.Errorf("assemble display root: %w", err)
	}
	plan := places(config, files)
	// Before anything is read: a file that is replaced meanwhile has another stamp the next time.
	now, err := stamp(plan)
	if err != nil {
		return "", fmt.Errorf("assemble display root: %w", err)
	}
	if root, ok := recall(config.Dir, now); ok {
		return root, nil
	}
	root, err := build(ctx, config, plan)
	if err == nil {
		err = remember(root, now)
	}
	if err != nil {
		return "", fmt.Errorf("assemble display root: %w", err)
	}
	return root, nil
}

// build makes the root of a plan unless it is there.
func build(ctx context.Context, config Config, plan []file) (string, error) {
	dir := config.Dir
	name, err := digest(ctx, plan)
	if err != nil {
		return "", err
	}
	root := filepath.Join(dir, name)
	if _, err := os.Stat(root); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	building, err := os.MkdirTemp(dir, buildingPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(building) // nothing is left of it after the rename
	if err := fill(ctx, building, config.Mountpoints, plan); err != nil {
		return "", err
	}
	if err := os.Rename(building, root); err != nil {
		return "", err
	}
	return root, syncDir(dir)
}

// buildingPrefix begins the names of roots that are not complete; "." keeps them from ever being a hash.
const buildingPrefix = ".building-"

// Prune removes the roots of dir that are not in use, and what a crash left half built. A dir that is not there has none.
func Prune(dir string, inUse []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune display roots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		root := filepath.Join(dir, e.Name())
		if e.Name() != stampName && !slices.Contains(inUse, root) {
			errs = append(errs, os.RemoveAll(root))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("prune display roots: %w", err)
	}
	return nil
}

// file is one file of a root.
type file struct{ from, to string }

// places plans where each file goes.
func places(config Config, files []string) []file {
	var plan []file
	for _, from := range files {
		to := from
		if from == config.Binary {
			to = config.Program
		}
		plan = append(plan, file{from, to})
	}
	return plan
}

// nameLength is how many hexadecimal digits of the hash a root's name has.
const nameLength = 32

// digest names the root of a plan.
func digest(ctx context.Context, plan []file) (string, error) {
	sum := sha256.New()
	for _, p := range plan {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		f, err := os.Open(p.from)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s\n", p.to)
		part := sha256.New()
		_, err = io.Copy(part, f)
		f.Close()
		if err != nil {
			return "", fmt.Errorf("read %s: %w", p.from, err)
		}
		sum.Write(part.Sum(nil))
	}
	return hex.EncodeToString(sum.Sum(nil))[:nameLength], nil
}

// fill makes a root's files and directories, and brings them to the disk.
func fill(ctx context.Context, root string, mountpoints []string, plan []file) error {
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	for _, dir := range mountpoints {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, f := range plan {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := filepath.Join(root, f.to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyFile(f.from, to); err != nil {
			return fmt.Errorf("copy %s: %w", f.from, err)
		}
	}
	// One call for the whole file system is far quicker than one for each of a hundred libraries.
	d, err := os.Open(root)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// copyFile copies content, shared with the source where the file system can, readable and executable by all.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		_, err = io.Copy(out, in)
	}
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sonames reads the list that `phone-display libraries` prints: one per line.
func Sonames(text string) []string {
	var names []string
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, line)
		}
	}
	return names
}
