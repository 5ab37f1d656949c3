// Package payload packs what is taken into a machine into one tar file: programs, test data, files of the repository.
package payload

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Writer packs a payload. It is not safe for concurrent use.
type Writer struct {
	file *os.File
	tar  *tar.Writer
	made map[string]bool // what is in it
}

// Create makes the tar file at path.
func Create(path string) (*Writer, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create the payload: %w", err)
	}
	return &Writer{file: file, tar: tar.NewWriter(file), made: make(map[string]bool)}, nil
}

// Add packs the host's file or directory from, with all that is in it, as name, relative and with slashes. Symbolic links stay what
// they are. What is in the payload already is not packed again.
func (w *Writer) Add(name, from string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if err := w.parents(name); err != nil {
		return err
	}
	if !info.IsDir() {
		return w.one(name, from, info)
	}
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		below, err := filepath.Rel(from, p)
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		return w.one(path.Join(name, filepath.ToSlash(below)), p, info)
	})
}

// Mkdir packs an empty directory, and those above it.
func (w *Writer) Mkdir(name string) error {
	return w.parents(path.Join(name, "x"))
}

// parents packs the directories above name.
func (w *Writer) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." || w.made[dir] {
		return nil
	}
	if err := w.parents(dir); err != nil {
		return err
	}
	w.made[dir] = true
	if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	return nil
}

func (w *Writer) one(name, from string, info fs.FileInfo) error {
	if w.made[name] {
		return nil
	}
	w.made[name] = true
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(from); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	// Everything belongs to root in the machine, whoever built it.
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if err := w.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	defer file.Close()
	if _, err := io.Copy(w.tar, file); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

// Close ends the tar file.
func (w *Writer) Close() error {
	err := w.tar.Close()
	if closed := w.file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("end the payload: %w", err)
	}
	return nil
}
