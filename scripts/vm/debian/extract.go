package debian

import (
	"context"
	"fmt"
	"os"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// Extract unpacks what Fetch brought of p into dir, with owners as the package has them if this process is root's. only are patterns
// of what is wanted, "./boot/vmlinuz-*", where "*" matches a slash too; a directory means all below it. None takes everything.
// A pattern that matches nothing is an error.
func (a *Archive) Extract(ctx context.Context, p Package, dir string, only ...string) error {
	tar := []string{"-x", "-C", dir, "--numeric-owner", "-p", "--wildcards"}
	if os.Geteuid() != 0 {
		tar = append(tar, "--no-same-owner")
	}
	tar = append(append(tar, "--"), only...)
	err := host.Pipe(ctx,
		host.Command{Name: "dpkg-deb", Args: []string{"--fsys-tarfile", a.File(p)}},
		host.Command{Name: "tar", Args: tar})
	if err != nil {
		return fmt.Errorf("unpack package %s %s of %s: %w", p.Name, p.Version, p.Arch, err)
	}
	return nil
}
