package asset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
)

// Key tells one version of an asset from another: 64 hexadecimal digits, a SHA-256.
type Key string

// Hash makes the key of parts. Their order matters, and so does where one ends and the next begins.
func Hash(parts ...string) Key {
	h := sha256.New()
	for _, p := range parts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(p)))
		h.Write(length[:])
		io.WriteString(h, p)
	}
	return Key(hex.EncodeToString(h.Sum(nil)))
}

// HashFiles makes the key of every regular file and symbolic link of fsys below the directories (or files) roots, in the order of
// the walk: their names, whether they can be executed, and their contents. A root that does not exist is an error.
func HashFiles(fsys fs.FS, roots ...string) (Key, error) {
	var parts []string
	for _, root := range roots {
		err := fs.WalkDir(fsys, root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			var text []byte
			if d.Type()&fs.ModeSymlink != 0 {
				target, err := fs.ReadLink(fsys, path)
				if err != nil {
					return err
				}
				text = []byte(target)
			} else if text, err = fs.ReadFile(fsys, path); err != nil {
				return err
			}
			parts = append(parts, path, fmt.Sprint(info.Mode()&(fs.ModeType|0o111)), string(Hash(string(text))))
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("hash the files of %s: %w", root, err)
		}
	}
	return Hash(parts...), nil
}
