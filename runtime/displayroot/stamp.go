package displayroot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// stampName is the file, beside the roots, that tells the last root and of which files it was made: "STAMP NAME". It only saves
// reading them again; without it, or with one that does not fit, the root is found by its content.
const stampName = ".stamp"

// stamp tells the files of a plan, and each from what it was before, without reading them: whoever replaces a file or writes to it
// changes its inode, its size or the time of its last change, which no program can set.
func stamp(plan []file) (string, error) {
	sum := sha256.New()
	for _, p := range plan {
		var st unix.Stat_t
		if err := unix.Stat(p.from, &st); err != nil {
			return "", &os.PathError{Op: "stat", Path: p.from, Err: err}
		}
		fmt.Fprintf(sum, "%s\n%s\n%d %d %d %d %d\n", p.from, p.to, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// recall returns the root that was made of the files with this stamp, if it is still there.
func recall(dir, stamp string) (root string, ok bool) {
	text, err := os.ReadFile(filepath.Join(dir, stampName))
	if err != nil {
		return "", false
	}
	last, name, found := strings.Cut(strings.TrimSpace(string(text)), " ")
	if !found || last != stamp || len(name) != nameLength {
		return "", false
	}
	root = filepath.Join(dir, name)
	info, err := os.Stat(root)
	return root, err == nil && info.IsDir()
}

// remember keeps the stamp of a root that is complete.
func remember(root, stamp string) error {
	dir, name := filepath.Split(root)
	next := filepath.Join(dir, buildingPrefix+stampName)
	if err := os.WriteFile(next, []byte(stamp+" "+name+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, stampName))
}
