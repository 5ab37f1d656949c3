package packages

import (
	"archive/zip"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/phonehost/phonehost/runtime/apk"
)

// part is one APK of a session.
type part struct {
	path string // on the phone
	info *apk.Info
}

// Commit installs what a session holds, and ends the session, whatever comes of it. The error is a *Failure for what Android refuses, of
// class errdefs.ErrNotFound without such a session.
func (m *Manager) Commit(id int) (string, error) {
	s, err := m.session(id)
	if err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	m.install.Lock()
	defer m.install.Unlock()
	name, err := m.commit(s)
	return name, errors.Join(err, m.endSession(s))
}

func (m *Manager) commit(s *session) (string, error) {
	parts, err := m.parts(s)
	if err != nil {
		return "", err
	}
	base, err := checkParts(parts)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	old := m.packages[base.info.Package]
	m.mu.Unlock()
	if err := m.admit(s, base, parts, old); err != nil {
		return "", err
	}
	p, err := m.prepare(s, base, parts, old)
	if err != nil {
		return "", err
	}
	return p.Name, m.switchTo(p, old, s.params)
}

// parts reads the APKs of a session.
func (m *Manager) parts(s *session) ([]part, error) {
	files, err := m.files(s)
	if err != nil {
		return nil, failure(installInternal, "%s", javaError("readdir", err))
	}
	if len(files) == 0 {
		return nil, failure(invalidAPK, "No packages staged")
	}
	var list []part
	for _, path := range files {
		info, err := readAPK(m.path(path))
		if err != nil {
			return nil, failure(notAPK, "Failed to parse %s: %v", path, err)
		}
		if err := checkContents(m.path(path)); err != nil {
			return nil, failure(invalidAPK, "Failed to extract native libraries or code from %s: %v", path, err)
		}
		list = append(list, part{path, info})
	}
	return list, nil
}

// checkContents compares the checksum of every entry of an archive, since nothing here runs the code that would notice.
func checkContents(path string) error {
	r, err := zip.OpenReader(path)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, f := range r.File {
		e, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		_, err = io.Copy(io.Discard, io.LimitReader(e, 4<<30))
		if err = errors.Join(err, e.Close()); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// checkParts checks that the APKs belong together (PackageInstallerSession.validateApkInstallLocked) and returns the base.
func checkParts(parts []part) (part, error) {
	first := parts[0].info
	seen := map[string]bool{}
	var base *part
	for i, p := range parts {
		name := filepath.Base(p.path)
		switch {
		case p.info.Package != first.Package:
			return part{}, failure(invalidAPK, "%s package %s inconsistent with %s", name, p.info.Package, first.Package)
		case p.info.VersionCode != first.VersionCode:
			return part{}, failure(invalidAPK, "%s version code %d inconsistent with %d", name, p.info.VersionCode, first.VersionCode)
		case len(p.info.Signers) == 0:
			return part{}, failure(noCertificates, "Failed to collect certificates from %s: No signature found in package of version 2 or newer", p.path)
		case !slices.Equal(p.info.Certificates(), first.Certificates()):
			return part{}, failure(invalidAPK, "%s signatures are inconsistent", name)
		case seen[p.info.Split]:
			return part{}, failure(invalidAPK, "Split %s was defined multiple times", splitName(p.info))
		}
		seen[p.info.Split] = true
		if p.info.Base() {
			base = &parts[i]
		}
	}
	if base == nil {
		return part{}, failure(invalidAPK, "Full install must include a base package")
	}
	if len(parts) == 1 && base.info.RequiresSplits {
		return part{}, failure(missingSplit, "Missing split for %s", base.info.Package)
	}
	return *base, nil
}

func splitName(i *apk.Info) string {
	if i.Base() {
		return "null"
	}
	return i.Split
}

// admit checks whether this phone takes the package, and takes it in place of old, which is nil for a new one.
func (m *Manager) admit(s *session, base part, parts []part, old *Package) error {
	i := base.info
	switch {
	case i.MinSDK > m.cfg.SDK:
		return failure(olderSDK, "Failed parse during installPackageLI: %s (at Binary XML file line #1): Requires newer sdk version #%d (current version is #%d)",
			base.path, i.MinSDK, m.cfg.SDK)
	case i.MinSDKPreview != "":
		return failure(olderSDK, "Failed parse during installPackageLI: %s (at Binary XML file line #1): Requires development platform %s but this is a release platform.",
			base.path, i.MinSDKPreview)
	case i.TestOnly && !s.params.TestOnly:
		return failure(testOnly, "Failed to install test-only apk. Did you forget to add -t?")
	case !m.runs(parts):
		return failure(noABI, "Failed to extract native libraries, res=-113")
	}
	if err := m.admitSharedUser(i); err != nil || old == nil {
		return err
	}
	switch {
	case old.IsInstalled() && s.params.NoReplace:
		return failure(alreadyExists, "Attempt to re-install %s without first uninstalling.", i.Package)
	case !slices.Equal(old.Certificates, digests(i)):
		return failure(incompatible, "Existing package %s signatures do not match newer version; ignoring!", i.Package)
	case old.SharedUser != i.SharedUserID:
		return failure("INSTALL_FAILED_UID_CHANGED", "Package %s shared user changed from %s to %s", i.Package, orNothing(old.SharedUser), orNothing(i.SharedUserID))
	case i.VersionCode < old.VersionCode && !s.params.Downgrade:
		return failure(downgrade, "Downgrade detected: Update version code %d is older than current %d", i.VersionCode, old.VersionCode)
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "<nothing>"
	}
	return s
}

func digests(i *apk.Info) (list []string) {
	for _, d := range i.Certificates() {
		list = append(list, d.String())
	}
	return list
}

// runs says whether the phone has a processor for the native code, if there is any.
func (m *Manager) runs(parts []part) bool {
	var abis []string
	for _, p := range parts {
		abis = append(abis, p.info.ABIs...)
	}
	return len(abis) == 0 || slices.ContainsFunc(abis, func(abi string) bool { return slices.Contains(m.cfg.ABIs, abi) })
}

// admitSharedUser checks that all packages of a shared user are signed alike.
func (m *Manager) admitSharedUser(i *apk.Info) error {
	if i.SharedUserID == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, reserved := systemIDs[i.SharedUserID]
	for _, p := range m.packages {
		if p.SharedUser == i.SharedUserID && p.Name != i.Package && !slices.Equal(p.Certificates, digests(i)) {
			return failure(sharedUser, "Package %s has no signatures that match those in shared user %s; ignoring!", i.Package, i.SharedUserID)
		}
		reserved = reserved && p.SharedUser != i.SharedUserID
	}
	if reserved {
		return failure(sharedUser, "Package %s has no signatures that match those in shared user %s; ignoring!", i.Package, i.SharedUserID)
	}
	return nil
}

// prepare gives the files their names and the directory its place. When it returns an error nothing has changed but the session.
func (m *Manager) prepare(s *session, base part, parts []part, old *Package) (*Package, error) {
	p := &Package{Base: "base.apk", Installer: s.params.Installer, Installed: now(), Updated: now()}
	var all []*apk.Info
	for _, part := range parts {
		name := p.Base
		if !part.info.Base() {
			name = splitFile(part.info.Split)
		}
		if err := os.Rename(m.path(part.path), m.path(s.dir(), name)); err != nil {
			return nil, failure(installInternal, "%s", javaError("rename", err))
		}
		all = append(all, part.info)
	}
	p.describe(base.info, all)
	if old != nil {
		p.AppID, p.System, p.Privileged, p.Users, p.Installed = old.AppID, old.System, old.Privileged, old.Users, old.Installed
	} else {
		m.mu.Lock()
		id, err := m.takeID(p.SharedUser)
		m.mu.Unlock()
		if err != nil {
			return nil, err
		}
		p.AppID = id
	}
	parent := filepath.Join("/data/app", "~~"+random())
	p.Dir = filepath.Join(parent, p.Name+"-"+random())
	err := syncDir(m.path(s.dir()))
	if err == nil {
		err = makeDir(m.path(parent), 0o771)
	}
	if err == nil {
		err = errors.Join(os.Chmod(m.path(s.dir()), 0o755), m.cfg.Rename(m.path(s.dir()), m.path(p.Dir)))
	}
	if err == nil {
		err = errors.Join(syncDir(m.path(parent)), syncDir(m.path("/data/app")))
	}
	if err != nil {
		_ = os.RemoveAll(m.path(parent))
		m.cfg.Printf("install %s: %v", p.Name, err)
		return nil, failure(storage, "Failed to rename")
	}
	return p, nil
}

// random is a part of a directory's name, as PackageManagerServiceUtils.getNextCodePath makes it.
func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.URLEncoding.EncodeToString(b[:])
}

// switchTo makes a prepared package the installed one.
func (m *Manager) switchTo(p, old *Package, params Params) error {
	err := m.makeData(p)
	if err == nil {
		if old != nil && !params.DontKill {
			m.cfg.Stop(p.Name)
		}
		m.mu.Lock()
		m.packages[p.Name] = p
		m.mu.Unlock()
		err = m.saveOr(func() {
			m.packages[p.Name] = old
			if old == nil {
				delete(m.packages, p.Name)
			}
		})
	}
	if err != nil {
		m.cfg.Printf("install %s: %v", p.Name, err)
		_ = os.RemoveAll(filepath.Dir(m.path(p.Dir)))
		if old == nil {
			m.removeData(p)
		}
		return failure(storage, "%s", javaError("write", err))
	}
	if old != nil && old.inData() {
		if err := os.RemoveAll(filepath.Dir(m.path(old.Dir))); err != nil {
			m.cfg.Printf("remove the old code of %s: %v", p.Name, err)
		}
	}
	m.cfg.Printf("package %s %d installed, uid %d", p.Name, p.VersionCode, p.AppID)
	return nil
}

// Uninstall removes a package; the update of one that the image brings. keepData leaves its data and its uid. The error is a *Failure, or
// of class errdefs.ErrNotFound.
func (m *Manager) Uninstall(name string, keepData bool) error {
	m.install.Lock()
	defer m.install.Unlock()
	old, err := m.Get(name)
	if err != nil {
		return err
	}
	if !old.inData() {
		return failure(uninstallInternal, "")
	}
	m.cfg.Stop(name)
	if err := m.forget(old, keepData); err != nil {
		m.cfg.Printf("uninstall %s: %v", name, err)
		return failure(uninstallInternal, "")
	}
	if err := os.RemoveAll(filepath.Dir(m.path(old.Dir))); err != nil {
		m.cfg.Printf("uninstall %s: %v", name, err)
	}
	if !keepData && !old.System {
		m.removeData(old)
	}
	m.cfg.Printf("package %s removed", name)
	return nil
}

// forget takes a package out of the memory, or puts the image's in its place.
func (m *Manager) forget(old *Package, keepData bool) error {
	m.mu.Lock()
	first := m.firstID
	delete(m.packages, old.Name)
	var err error
	switch {
	case old.System:
		err = m.restore(old)
	case keepData:
		kept := old.clone()
		kept.Dir, kept.Base, kept.Splits = "", "", nil
		m.packages[old.Name] = kept
	default:
		m.dropped(old)
	}
	m.mu.Unlock()
	undo := func() { m.packages[old.Name], m.firstID = old, first }
	if err != nil {
		m.mu.Lock()
		undo()
		m.mu.Unlock()
		return err
	}
	return m.saveOr(undo)
}

// restore puts the image's version of a package back, with its uid. The caller holds mu.
func (m *Manager) restore(old *Package) error {
	dir := "/system/app"
	if old.Privileged {
		dir = "/system/priv-app"
	}
	paths, err := filepath.Glob(m.path(dir, "*", "*.apk"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		info, err := readAPK(path)
		if err != nil {
			return err
		}
		if info.Package != old.Name {
			continue
		}
		p := &Package{
			AppID: old.AppID, Dir: filepath.Join(dir, filepath.Base(filepath.Dir(path))), Base: filepath.Base(path), System: true,
			Privileged: old.Privileged, Users: old.Users, Installed: old.Installed, Updated: now(),
		}
		p.describe(info, []*apk.Info{info})
		m.packages[p.Name] = p
		return nil
	}
	return fmt.Errorf("the image has no package %s", old.Name)
}

// removeData removes a package's data of all users.
func (m *Manager) removeData(p *Package) {
	for _, user := range m.userIDs() {
		if err := os.RemoveAll(m.path(m.dataRoot(user), p.Name)); err != nil {
			m.cfg.Printf("remove the data of %s: %v", p.Name, err)
		}
	}
}

// Clear stops a package and empties its data for a user. Error: errdefs.ErrNotFound.
func (m *Manager) Clear(name string, user int) error {
	m.install.Lock()
	defer m.install.Unlock()
	p, err := m.Get(name)
	if err != nil {
		return err
	}
	m.cfg.Stop(name)
	if err := os.RemoveAll(m.path(m.dataRoot(user), p.Name)); err != nil {
		return err
	}
	return m.makeUserData(p, user)
}
