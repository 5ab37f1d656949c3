package main

import (
	"fmt"
	"os"

	"github.com/phonehost/phonehost/scripts/vm/asset"
)

type cleanCmd struct{}

// Run empties the cache. It refuses while a build or a machine uses it.
func (*cleanCmd) Run(r *run) error {
	dir := r.cfg.CacheDir
	if dir == "" {
		var err error
		if dir, err = asset.DefaultDir(); err != nil {
			return err
		}
	}
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		_, err := fmt.Fprintf(r.out, "there is nothing in %s\n", dir)
		return err
	}
	c, err := asset.Open(dir, r.log)
	if err != nil {
		return err
	}
	if err := c.Clean(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.out, "emptied %s\n", dir)
	return err
}
