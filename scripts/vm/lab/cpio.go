package lab

import (
	"bufio"
	"fmt"
	"io"
)

// Types and permissions of a cpio entry, as in st_mode.
const (
	cpioFile      = 0o100000
	cpioDir       = 0o040000
	cpioLink      = 0o120000
	cpioCharacter = 0o020000
)

// cpio writes the archive that Linux takes as an initrd: the "newc" format of Documentation/driver-api/early-userspace/buffer-format.rst.
// Everything belongs to root and has no time, so that the same content is the same archive.
type cpio struct {
	w     *bufio.Writer
	inode int
	err   error
}

func newCPIO(w io.Writer) *cpio { return &cpio{w: bufio.NewWriter(w)} }

func (c *cpio) dir(name string, mode uint32)            { c.entry(name, cpioDir|mode, 0, 0, nil) }
func (c *cpio) file(name string, mode uint32, b []byte) { c.entry(name, cpioFile|mode, 0, 0, b) }
func (c *cpio) link(name, target string)                { c.entry(name, cpioLink|0o777, 0, 0, []byte(target)) }
func (c *cpio) character(name string, mode, major, minor uint32) {
	c.entry(name, cpioCharacter|mode, major, minor, nil)
}

// entry writes one entry. The first error is kept for close.
func (c *cpio) entry(name string, mode, major, minor uint32, content []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	links := 1
	if mode&cpioDir == cpioDir {
		links = 2
	}
	// Magic, inode, mode, uid, gid, links, time, size, device (two), its own device (two), length of the name with its zero, sum.
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	c.write(header, name, "\x00", zeros(len(header)+len(name)+1))
	if c.err == nil {
		_, c.err = c.w.Write(content)
	}
	c.write(zeros(len(content)))
}

func (c *cpio) write(parts ...string) {
	for _, p := range parts {
		if c.err == nil {
			_, c.err = c.w.WriteString(p)
		}
	}
}

// zeros fill up to four bytes.
func zeros(n int) string { return "\x00\x00\x00"[:(4-n%4)%4] }

// close ends the archive and returns the first error there was.
func (c *cpio) close() error {
	c.inode = -1
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	if c.err != nil {
		return c.err
	}
	return c.w.Flush()
}
