package applist

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

// storedApps is what the database has of the apps of a phone.
type storedApps struct {
	// Created is when the phone was, Generation and Image are its data's and its image when the table was read.
	Created    time.Time `json:"created"`
	Generation uint64    `json:"data_generation"`
	Image      string    `json:"image_digest"`
	// Complete is whether it was read after a boot.
	Complete bool `json:"complete,omitempty"`
	// Packages is the table, in the form that packages.Parse reads.
	Packages string `json:"packages,omitempty"`
	// Suspended are the packages that the guest's package manager was told to suspend.
	Suspended []string `json:"suspended,omitempty"`
}

// appsTable is their bucket.
var appsTable = store.Table[storedApps]{Bucket: store.Apps, What: "apps of phone"}

// apps is what is known of the apps of a phone. Values are not changed once they are made.
type apps struct {
	created    time.Time
	generation uint64
	image      string
	// table is the newest table; nil before the first of this data.
	table *packages.Table
	// complete is whether a table was read after a boot of this data and this image.
	complete bool
	// suspended are the packages that may be suspended in the guest, because it was told so.
	suspended map[string]bool
}

// fits returns what of it is true of a phone as its record is now: nothing of another phone or other data; of another image, which may bring other
// packages, the table, which is not complete then.
func (a apps) fits(r *phone.Record) apps {
	if !a.created.Equal(r.CreateTime) || a.generation != r.DataGeneration {
		return apps{created: r.CreateTime, generation: r.DataGeneration, image: r.ImageDigest}
	}
	if a.image != r.ImageDigest {
		a.image, a.complete = r.ImageDigest, false
	}
	return a
}

// byName returns a package of the table.
func (a apps) byName(name string) (packages.Package, bool) {
	if a.table == nil {
		return packages.Package{}, false
	}
	return a.table.ByName(name)
}

// packagesOf names the packages of the table that have one of some app ids, in order.
func (a apps) packagesOf(ids map[uint32]bool) []string {
	if a.table == nil {
		return nil
	}
	var names []string
	for id := range ids {
		for _, p := range a.table.ByAppID(id) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// same reports whether the database has the same of both.
func (a apps) same(o apps) bool {
	return a.created.Equal(o.created) && a.generation == o.generation && a.image == o.image && a.complete == o.complete &&
		(a.table == o.table || lines(a.table) == lines(o.table)) && maps.Equal(a.suspended, o.suspended)
}

// stored returns it as the database has it.
func (a apps) stored() storedApps {
	return storedApps{
		Created: a.created, Generation: a.generation, Image: a.image, Complete: a.complete, Packages: lines(a.table),
		Suspended: slices.Sorted(maps.Keys(a.suspended)),
	}
}

// apps reads it back. A table that cannot be read is none, and then nothing is complete.
func (s storedApps) apps() (apps, error) {
	a := apps{created: s.Created, generation: s.Generation, image: s.Image, suspended: map[string]bool{}}
	for _, name := range s.Suspended {
		a.suspended[name] = true
	}
	if s.Packages == "" {
		return a, nil
	}
	table, err := packages.Parse(strings.NewReader(s.Packages))
	if err == nil {
		a.table, a.complete = table, s.Complete
	}
	return a, err
}

// lines is a table in the form that packages.Parse reads, with what lists need of it. Its installers have no blanks, since they were read so.
func lines(t *packages.Table) string {
	if t == nil {
		return ""
	}
	var b strings.Builder
	for _, p := range t.All() {
		installer := p.Installer
		if installer == "" {
			installer = "@null"
		}
		fmt.Fprintf(&b, "%s %d 0 null none none 0 0 0 %s\n", p.Name, p.AppID, installer)
	}
	return b.String()
}

// keep stores what is known of a phone's apps, and knows it from then on. The ward's turn is taken.
func (m *Manager) keep(w *ward, a apps) error {
	m.mu.Lock()
	same := w.apps.same(a)
	m.mu.Unlock()
	if !same {
		err := m.cfg.DB.Update(func(tx *store.Tx) error { return appsTable.Put(tx, []byte(w.id), a.stored()) })
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w.apps = a
	return nil
}

// load reads the database.
func (m *Manager) load() error {
	return m.cfg.DB.View(func(tx *store.Tx) error {
		m.loadLists(tx)
		for e := range appsTable.All(tx) {
			a, err := e.Value.apps()
			if err = errors.Join(e.Err, err); err != nil {
				m.cfg.Logger.Error("table of a phone's packages not read; it is known again when the phone has booted", "phone_id", e.Key, "error", err)
			}
			w := newWard(e.Key)
			w.apps = a
			m.wards[e.Key] = w
		}
		return nil
	})
}

// imageApps are the packages of a phone's image, as far as is known.
type imageApps struct {
	names map[string]bool
	// known is whether any are; nothing is known of an image where no package was found.
	known bool
	// unread says why the image was not read, so that the table's word counts; empty where it was.
	unread string
}

// imageApps returns the packages of a phone's image: those that were read from it. The table's word counts for what is not read of an image, and
// where nothing could be.
func (m *Manager) imageApps(digest string, t *packages.Table) imageApps {
	found, err := m.cfg.Images.Packages(digest)
	i := imageApps{names: found.Names, known: len(found.Names) > 0}
	if err == nil && i.known && !found.UnreadAPEX {
		return i
	}
	switch {
	case err != nil:
		i.unread = "the packages that came with the image are not known from the image: " + fault.Readable(fault.Words(err))
	case !i.known:
		i.unread = "no packages were found in the image"
	}
	i.names = maps.Clone(found.Names)
	if i.names == nil {
		i.names = map[string]bool{}
	}
	if t != nil {
		for _, p := range t.All() {
			// Settings.writePackageListLPr writes these for packages of the image, from Android 12 on.
			if p.Installer == "@system" || p.Installer == "@product" {
				i.names[p.Name] = true
			}
		}
	}
	i.known = len(i.names) > 0
	return i
}
