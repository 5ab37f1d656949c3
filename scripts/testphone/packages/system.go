package packages

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/phonehost/phonehost/runtime/apk"
)

// scanSystem takes in the packages of the image. One that has an update in /data keeps it unless the image's is newer; one that the image
// no longer has goes, unless it has an update.
func (m *Manager) scanSystem() error {
	seen := map[string]bool{}
	for dir, privileged := range map[string]bool{"/system/priv-app": true, "/system/app": false} {
		paths, err := filepath.Glob(m.path(dir, "*", "*.apk"))
		if err != nil {
			return err
		}
		for _, path := range paths {
			name, err := m.takeSystem(path, filepath.Join(dir, filepath.Base(filepath.Dir(path))), privileged)
			if err != nil {
				return fmt.Errorf("package of the image %s: %w", path, err)
			}
			seen[name] = true
		}
	}
	for name, p := range m.packages {
		if p.System && !seen[name] {
			if !p.inData() {
				delete(m.packages, name)
			}
			p.System, p.Privileged = false, false
		}
	}
	return nil
}

// takeSystem takes in one package of the image. dir is where it is on the phone.
func (m *Manager) takeSystem(path, dir string, privileged bool) (string, error) {
	info, err := readAPK(path)
	if err != nil {
		return "", err
	}
	old := m.packages[info.Package]
	if old != nil && old.inData() && old.VersionCode >= info.VersionCode {
		old.System, old.Privileged = true, privileged
		return info.Package, nil
	}
	p := &Package{Dir: dir, Base: filepath.Base(path), System: true, Privileged: privileged, Installed: now(), Updated: now()}
	p.describe(info, []*apk.Info{info})
	if old != nil {
		p.AppID, p.Installed, p.Users = old.AppID, old.Installed, old.Users
		if old.VersionCode == p.VersionCode {
			p.Updated = old.Updated
		}
	} else if p.AppID, err = m.takeID(p.SharedUser); err != nil {
		return "", err
	}
	m.packages[p.Name] = p
	return p.Name, nil
}

func readAPK(path string) (*apk.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return apk.Read(f, stat.Size())
}
