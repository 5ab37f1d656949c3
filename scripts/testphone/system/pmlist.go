package system

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/phonehost/phonehost/scripts/testphone/packages"
)

// listing are the options of `pm list packages`.
type listing struct {
	files, uids, versions, installers       bool
	system, third, disabled, enabled, every bool
	user                                    int
	filter                                  string
}

func pmList(_ context.Context, sh *shell) error {
	what, ok := sh.next()
	switch {
	case !ok:
		sh.errorf("Error: didn't specify type of data to list\n")
		return code(255)
	case what == "users":
		return pmListUsers(sh)
	case what != "packages" && what != "package":
		sh.errorf("Error: unknown list type '%s'\n", what)
		return code(255)
	}
	l, err := readListing(sh)
	if err != nil {
		return err
	}
	for _, p := range sh.server.packages.List() {
		if l.shows(p) {
			sh.printf("%s\n", l.line(p, sh.server.packages.Users()))
		}
	}
	return nil
}

func readListing(sh *shell) (l listing, err error) {
	l.user = allUsers
	for {
		opt, ok := sh.option()
		if !ok {
			break
		}
		switch opt {
		case "-f":
			l.files = true
		case "-U":
			l.uids = true
		case "--show-versioncode":
			l.versions = true
		case "-i":
			l.installers = true
		case "-s":
			l.system = true
		case "-3":
			l.third = true
		case "-d":
			l.disabled = true
		case "-e":
			l.enabled = true
		case "-a", "-u", "-l", "--apex-only":
			l.every = true
		case "--user":
			if l.user, err = sh.user(); err == nil {
				err = sh.checkUser(l.user)
			}
		default:
			sh.errorf("Error: Unknown option: %s\n", opt)
			return l, code(255)
		}
		if err != nil {
			return l, err
		}
	}
	l.filter, _ = sh.next()
	return l, nil
}

func (l listing) shows(p *packages.Package) bool {
	off := p.Users[max(l.user, 0)].Off()
	return strings.Contains(p.Name, l.filter) && (!l.system || p.System) && (!l.third || !p.System) && (!l.disabled || off) && (!l.enabled || !off)
}

func (l listing) line(p *packages.Package, users map[int]string) string {
	line := "package:"
	if l.files {
		line += p.Files()[0] + "="
	}
	line += p.Name
	if l.versions {
		line += fmt.Sprintf(" versionCode:%d", p.VersionCode)
	}
	if l.installers {
		installer := p.Installer
		if installer == "" {
			installer = "null"
		}
		line += "  installer=" + installer
	}
	if l.uids {
		line += " uid:" + l.uidsOf(p, users)
	}
	return line
}

// uidsOf lists the uids of the users that were asked for.
func (l listing) uidsOf(p *packages.Package, users map[int]string) string {
	if l.user != allUsers {
		return fmt.Sprint(p.UID(l.user))
	}
	var list []string
	for _, user := range slices.Sorted(maps.Keys(users)) {
		list = append(list, fmt.Sprint(p.UID(user)))
	}
	return strings.Join(list, ",")
}

func pmPath(_ context.Context, sh *shell) error {
	for {
		opt, ok := sh.option()
		if !ok {
			break
		}
		if opt != "--user" {
			return illegalArgument("Unknown option: %s", opt)
		}
		if _, err := sh.user(); err != nil {
			return err
		}
	}
	name, ok := sh.next()
	if !ok {
		sh.errorf("Error: no package specified\n")
		return code(1)
	}
	p, err := sh.server.packages.Get(name)
	if err != nil {
		return code(1)
	}
	for _, file := range p.Files() {
		sh.printf("package:%s\n", file)
	}
	return nil
}

// pmResolve says which activity `am start` would start.
func pmResolve(_ context.Context, sh *shell) error {
	brief := false
	var in intent
	for {
		if len(sh.args) > 0 && sh.args[0] == "--brief" {
			brief = true
			sh.args = sh.args[1:]
			continue
		}
		more, err := in.option(sh)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	in.target(sh)
	p, class, err := sh.server.resolve(in)
	if err != nil {
		sh.printf("No activity found\n")
		return nil
	}
	sh.printf("priority=0 preferredOrder=0 match=0x108000 specificIndex=-1 isDefault=false\n")
	if !brief {
		sh.printf("ActivityInfo:\n  name=%s\n  packageName=%s\n", class, p.Name)
		return nil
	}
	sh.printf("%s\n", short(p.Name, class))
	return nil
}
