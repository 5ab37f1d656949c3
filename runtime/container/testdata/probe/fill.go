package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fillAll fills every directory that it is given, in every way that there is, and prints how each ended. Nothing is removed.
func fillAll(dirs []string) {
	for _, dir := range dirs {
		fmt.Printf("%s files %s\n", dir, why(manyFiles(dir)))
		fmt.Printf("%s bytes %s\n", dir, why(oneFile(filepath.Join(dir, "large"))))
		fmt.Printf("%s links %s\n", dir, why(manyLinks(dir)))
		fmt.Printf("%s attributes %s\n", dir, why(manyAttributes(dir)))
		fmt.Printf("%s depth %s\n", dir, why(deep(dir)))
	}
}

var errBound = errors.New("no end in sight")

// manyFiles makes empty files until it is refused.
func manyFiles(dir string) error {
	for i := range 1 << 20 {
		if i%1000 == 0 {
			if err := os.Mkdir(fmt.Sprintf("%s/d%d", dir, i/1000), 0o700); err != nil {
				return err
			}
		}
		f, err := os.Create(fmt.Sprintf("%s/d%d/%d", dir, i/1000, i))
		if err != nil {
			return err
		}
		f.Close()
	}
	return errBound
}

// oneFile makes room for one file and writes until it is refused.
func oneFile(path string) error {
	os.Remove(filepath.Join(filepath.Dir(path), "d0/0"))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for range 8 << 10 {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), errBound)
}

// manyLinks gives a file names until it is refused.
func manyLinks(dir string) error {
	for i := range 1 << 20 {
		if err := os.Link(dir+"/large", fmt.Sprintf("%s/link%s%d", dir, strings.Repeat("k", 200), i)); err != nil {
			return err
		}
	}
	return errBound
}

// manyAttributes gives files attributes until it is refused.
func manyAttributes(dir string) error {
	value := make([]byte, 4000)
	var last error
	for i := range 900 {
		for n := range 100 {
			if last = unix.Setxattr(fmt.Sprintf("%s/d0/%d", dir, 1+i), fmt.Sprintf("user.%d", n), value, 0); last != nil {
				break
			}
		}
	}
	return last
}

// deep makes a directory in a directory until it is refused, 2000 at most.
func deep(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer os.Chdir("/")
	for range 2000 {
		if err := os.Mkdir("p", 0o700); err != nil {
			return err
		}
		if err := os.Chdir("p"); err != nil {
			return err
		}
	}
	return errBound
}
