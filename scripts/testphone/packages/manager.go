package packages

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Config is what Open needs.
type Config struct {
	// Root is put before /data and /system; empty on a phone.
	Root string
	// SDK is the API level of the phone, ABIs the processors whose code it runs.
	SDK  int
	ABIs []string
	// Chown gives a file to a uid and its group; nil for the system call.
	Chown func(path string, uid, gid int) error
	// Rename puts a session's directory into its place, which is where a host's policy says no; nil for the system call.
	Rename func(from, to string) error
	// Stop ends all processes of a package; nil does nothing. It is called before the package's code or data go.
	Stop func(pkg string)
	// Printf takes messages for the log; nil drops them.
	Printf func(format string, args ...any)
}

// Manager knows the packages.
type Manager struct {
	cfg Config

	install sync.Mutex // held while packages change

	mu       sync.Mutex // guards what follows
	packages map[string]*Package
	users    map[int]string
	firstID  int // no app id below it is given to a new package
	sessions map[int]*session
}

// memory is packages.json.
type memory struct {
	Packages []*Package     `json:"packages"`
	Users    map[int]string `json:"users"`
}

// Open reads what is installed, takes away what an interrupted installation left, and takes in what the image brings. It writes
// packages.list. The directories of /data must be there.
func Open(cfg Config) (*Manager, error) {
	if cfg.Chown == nil {
		cfg.Chown = os.Lchown
	}
	if cfg.Rename == nil {
		cfg.Rename = os.Rename
	}
	if cfg.Stop == nil {
		cfg.Stop = func(string) {}
	}
	if cfg.Printf == nil {
		cfg.Printf = func(string, ...any) {}
	}
	m := &Manager{cfg: cfg, packages: map[string]*Package{}, users: map[int]string{0: "Owner"}, firstID: firstAppID, sessions: map[int]*session{}}
	if err := m.load(); err != nil {
		return nil, err
	}
	if err := m.scanSystem(); err != nil {
		return nil, err
	}
	if err := m.sweep(); err != nil {
		return nil, err
	}
	for _, p := range m.packages {
		if err := m.makeData(p); err != nil {
			return nil, err
		}
	}
	return m, m.save()
}

// path is where a path of the phone is.
func (m *Manager) path(elem ...string) string {
	return filepath.Join(m.cfg.Root, filepath.Join(elem...))
}

// load reads packages.json. A damaged one is set aside: the phone starts with what the image brings.
func (m *Manager) load() error {
	name := m.path("/data/system/packages.json")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the packages: %w", err)
	}
	var mem memory
	if err := json.Unmarshal(b, &mem); err != nil {
		m.cfg.Printf("%s is damaged and set aside: %v", name, err)
		return os.Rename(name, name+".damaged")
	}
	for _, p := range mem.Packages {
		if p.inData() {
			if _, err := os.Stat(m.path(p.Dir, p.Base)); err != nil {
				m.cfg.Printf("package %s is gone: %v", p.Name, err)
				continue
			}
		}
		m.packages[p.Name] = p
	}
	if len(mem.Users) > 0 {
		m.users = mem.Users
	}
	return nil
}

// save writes packages.json and then packages.list. The caller holds install, or is Open.
func (m *Manager) save() error {
	m.mu.Lock()
	mem := memory{Users: maps.Clone(m.users)}
	for _, name := range slices.Sorted(maps.Keys(m.packages)) {
		mem.Packages = append(mem.Packages, m.packages[name])
	}
	text := list(m.packages)
	b, err := json.MarshalIndent(mem, "", " ")
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("write the packages: %w", err)
	}
	if err := m.replace("/data/system/packages.json", b, 0o660, 1000, 1000); err != nil {
		return err
	}
	return m.replace("/data/system/packages.list", []byte(text), 0o640, 1000, 1032)
}

// replace writes a file whole beside its place, makes it safe, and renames it.
func (m *Manager) replace(name string, data []byte, mode os.FileMode, uid, gid int) error {
	path := m.path(name)
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), m.cfg.Chown(path+".tmp", uid, gid), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path + ".tmp")
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// syncDir writes a directory's entries to the disk.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes sessions, and code and data of packages that are not installed.
func (m *Manager) sweep() error {
	keep := map[string]bool{}
	for _, p := range m.packages {
		if p.inData() {
			keep[filepath.Dir(p.Dir)] = true
		}
	}
	entries, err := os.ReadDir(m.path("/data/app"))
	if err != nil {
		return fmt.Errorf("look for stale installations: %w", err)
	}
	for _, e := range entries {
		if name := filepath.Join("/data/app", e.Name()); !keep[name] {
			m.cfg.Printf("%s is removed: no package has it", name)
			if err := os.RemoveAll(m.path(name)); err != nil {
				return fmt.Errorf("remove a stale installation: %w", err)
			}
		}
	}
	for user := range m.users {
		if err := m.sweepData(m.dataRoot(user)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) sweepData(root string) error {
	entries, err := os.ReadDir(m.path(root))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for stale data: %w", err)
	}
	for _, e := range entries {
		if m.packages[e.Name()] == nil {
			m.cfg.Printf("%s is removed: its package is not installed", filepath.Join(root, e.Name()))
			if err := os.RemoveAll(m.path(root, e.Name())); err != nil {
				return fmt.Errorf("remove stale data: %w", err)
			}
		}
	}
	return nil
}

// dataRoot is where the data of a user's apps is. /data/user/0 is a link to it.
func (m *Manager) dataRoot(user int) string {
	if user == 0 {
		return "/data/data"
	}
	return fmt.Sprintf("/data/user/%d", user)
}

// makeData makes the data directories of a package, which are the app's own.
func (m *Manager) makeData(p *Package) error {
	for _, user := range m.userIDs() {
		if err := m.makeUserData(p, user); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) makeUserData(p *Package, user int) error {
	root := m.dataRoot(user)
	if user != 0 {
		if err := makeDir(m.path(root), 0o771); err != nil {
			return fmt.Errorf("data of user %d: %w", user, err)
		}
	}
	for _, dir := range []struct {
		name string
		mode os.FileMode
	}{{"", 0o700}, {"cache", 0o771}, {"code_cache", 0o771}} {
		path := m.path(root, p.Name, dir.name)
		if err := makeDir(path, dir.mode); err != nil {
			return fmt.Errorf("data of %s: %w", p.Name, err)
		}
		if err := m.cfg.Chown(path, p.UID(user), p.UID(user)); err != nil {
			return fmt.Errorf("data of %s: %w", p.Name, err)
		}
	}
	return nil
}

// makeDir makes a directory with exactly the mode.
func makeDir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, mode)
}

// Get returns a copy of an installed package; errdefs.ErrNotFound if there is none.
func (m *Manager) Get(name string) (*Package, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.packages[name]
	if p == nil || !p.IsInstalled() {
		return nil, fmt.Errorf("package %.100q: %w", name, errdefs.ErrNotFound)
	}
	return p.clone(), nil
}

func (p *Package) clone() *Package {
	c := *p
	c.Users = maps.Clone(p.Users)
	return &c
}

// List returns copies of the installed packages, in order of their names.
func (m *Manager) List() []*Package {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*Package
	for _, p := range m.packages {
		if p.IsInstalled() {
			all = append(all, p.clone())
		}
	}
	slices.SortFunc(all, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// change makes a change to a package and saves it.
func (m *Manager) change(name string, f func(*Package)) error {
	m.install.Lock()
	defer m.install.Unlock()
	m.mu.Lock()
	old := m.packages[name]
	if old == nil || !old.IsInstalled() {
		m.mu.Unlock()
		return fmt.Errorf("package %.100q: %w", name, errdefs.ErrNotFound)
	}
	changed := old.clone()
	f(changed)
	m.packages[name] = changed
	m.mu.Unlock()
	return m.saveOr(func() { m.packages[name] = old })
}

// saveOr saves, and undoes with the lock held if that fails.
func (m *Manager) saveOr(undo func()) error {
	err := m.save()
	if err != nil {
		m.mu.Lock()
		undo()
		m.mu.Unlock()
	}
	return err
}

// SetState changes what a user has done with a package. Error: errdefs.ErrNotFound.
func (m *Manager) SetState(name string, user int, f func(*State)) error {
	return m.change(name, func(p *Package) {
		if p.Users == nil {
			p.Users = map[int]State{}
		}
		s := p.Users[user]
		f(&s)
		p.Users[user] = s
	})
}

// takeID returns the app id of a new package. The caller holds mu.
func (m *Manager) takeID(shared string) (int, error) {
	if id, ok := systemIDs[shared]; ok {
		return id, nil
	}
	used := map[int]bool{}
	for _, p := range m.packages {
		if shared != "" && p.SharedUser == shared {
			return p.AppID, nil
		}
		used[p.AppID] = true
	}
	for id := m.firstID; id <= lastAppID; id++ {
		if !used[id] {
			return id, nil
		}
	}
	return 0, failure(storage, "Scanning Failed.: Could not find an available app id")
}

// dropped notes that a package has given its app id back, unless another shares it. The caller holds mu.
func (m *Manager) dropped(p *Package) {
	for _, other := range m.packages {
		if other.AppID == p.AppID {
			return
		}
	}
	if p.AppID >= firstAppID {
		m.firstID = max(m.firstID, p.AppID+1)
	}
}

// CreateUser makes another user, who has all packages, and returns its number: 10 or above.
func (m *Manager) CreateUser(name string) (int, error) {
	m.install.Lock()
	defer m.install.Unlock()
	m.mu.Lock()
	id := 10
	for ; m.users[id] != ""; id++ {
	}
	m.users[id] = cmp.Or(name, "User")
	all := slices.Collect(maps.Values(m.packages))
	m.mu.Unlock()
	for _, p := range all {
		if err := m.makeUserData(p, id); err != nil {
			return 0, err
		}
	}
	return id, m.saveOr(func() { delete(m.users, id) })
}

// RemoveUser removes a user and the data of its apps. Error: errdefs.ErrNotFound; user 0 stays.
func (m *Manager) RemoveUser(id int) error {
	m.install.Lock()
	defer m.install.Unlock()
	m.mu.Lock()
	name := m.users[id]
	if id == 0 || name == "" {
		m.mu.Unlock()
		return fmt.Errorf("user %d: %w", id, errdefs.ErrNotFound)
	}
	delete(m.users, id)
	m.mu.Unlock()
	if err := m.saveOr(func() { m.users[id] = name }); err != nil {
		return err
	}
	return os.RemoveAll(m.path(m.dataRoot(id)))
}

// Users returns the names of the users by their numbers.
func (m *Manager) Users() map[int]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.users)
}

func (m *Manager) userIDs() []int { return slices.Sorted(maps.Keys(m.Users())) }

// now is the time of a change, to the second.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
