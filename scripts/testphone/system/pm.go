package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/testphone/packages"
)

// packageCommands are those of `pm` and `cmd package`.
var packageCommands = map[string]handler{
	"install": pmInstall, "install-create": pmInstallCreate, "install-write": pmInstallWrite, "install-commit": pmInstallCommit,
	"install-abandon": pmInstallAbandon, "uninstall": pmUninstall,
	"list": pmList, "path": pmPath, "resolve-activity": pmResolve, "clear": pmClear,
	"suspend":   func(_ context.Context, sh *shell) error { return pmSuspend(sh, true) },
	"unsuspend": func(_ context.Context, sh *shell) error { return pmSuspend(sh, false) },
	"enable":    func(_ context.Context, sh *shell) error { return pmEnable(sh, "enabled") },
	"disable":   func(_ context.Context, sh *shell) error { return pmEnable(sh, "disabled") },
	"disable-user": func(_ context.Context, sh *shell) error {
		return pmEnable(sh, "disabled-user")
	},
	"default-state": func(_ context.Context, sh *shell) error { return pmEnable(sh, "default") },
	"create-user":   pmCreateUser, "remove-user": pmRemoveUser,
}

// params reads the options of install and install-create. size is -1 without -S.
func (sh *shell) params() (p packages.Params, size int64, err error) {
	size = -1
	for {
		opt, ok := sh.option()
		if !ok {
			return p, size, nil
		}
		switch opt {
		case "-r", "-g", "-l", "-f", "--full", "--instant", "--ephemeral", "--force-queryable", "--restrict-permissions", "--bypass-low-target-sdk-block":
		case "-R":
			p.NoReplace = true
		case "-t":
			p.TestOnly = true
		case "-d":
			p.Downgrade = true
		case "--dont-kill":
			p.DontKill = true
		case "-S":
			size, err = sh.number(opt)
			p.Total = max(size, 0)
		case "-i":
			p.Installer, err = sh.value(opt)
		case "--user":
			var user int
			if user, err = sh.user(); err == nil {
				err = sh.checkUser(user)
			}
		case "--abi", "--install-location", "--install-reason", "--originating-uri", "--referrer", "--package-source":
			_, err = sh.value(opt)
		default:
			err = illegalArgument("Unknown option %s", opt)
		}
		if err != nil {
			return p, size, err
		}
	}
}

// create begins a session, and says what Android says when there is no room.
func (sh *shell) create(p packages.Params) (int, error) {
	id, err := sh.server.packages.CreateSession(p)
	if errdefs.IsResourceExhausted(err) {
		return 0, exception{"android.os.ParcelableException", "java.io.IOException: Requested internal only, but not enough space"}
	}
	return id, err
}

func pmInstall(ctx context.Context, sh *shell) error {
	p, size, err := sh.params()
	if err != nil {
		return err
	}
	paths := sh.args
	if len(paths) == 1 && paths[0] == "-" {
		paths = nil
	}
	if len(paths) == 0 && size <= 0 {
		sh.errorf("Error: must either specify a package size or an APK file\n")
		return code(1)
	}
	id, err := sh.create(p)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		err = sh.write(ctx, id, "base.apk", size)
	}
	for i, path := range paths {
		if err == nil {
			_, err = sh.writeFile(id, fmt.Sprintf("%d_%s", i, filepath.Base(path)), path)
		}
	}
	if err == nil && ctx.Err() == nil {
		return sh.commit(id)
	}
	if abandon := sh.server.packages.Abandon(id); abandon != nil {
		sh.server.cfg.Printf("%v", abandon)
	}
	return errors.Join(ctx.Err(), err)
}

func pmInstallCreate(_ context.Context, sh *shell) error {
	p, _, err := sh.params()
	if err != nil {
		return err
	}
	id, err := sh.create(p)
	if err != nil {
		return err
	}
	sh.printf("Success: created install session [%d]\n", id)
	return nil
}

func pmInstallWrite(ctx context.Context, sh *shell) error {
	size := int64(-1)
	for {
		opt, ok := sh.option()
		if !ok {
			break
		}
		if opt != "-S" {
			return illegalArgument("Unknown option: %s", opt)
		}
		var err error
		if size, err = sh.number(opt); err != nil {
			return err
		}
	}
	id, err := sh.number("install-write")
	if err != nil {
		return err
	}
	name, err := sh.value("the session")
	if err != nil {
		return err
	}
	path, ok := sh.next()
	if ok && path != "-" {
		size, err = sh.writeFile(int(id), name, path)
	} else {
		err = sh.write(ctx, int(id), name, size)
	}
	if err == nil {
		sh.printf("Success: streamed %d bytes\n", size)
	}
	return err
}

// writeFile streams a file of the phone into a session and returns its size.
func (sh *shell) writeFile(id int, name, path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		sh.errorf("Error: Unable to open file: %s\nConsider using a file under /data/local/tmp/\n", path)
		return 0, code(1)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return stat.Size(), sh.stream(id, name, stat.Size(), f)
}

// write streams the standard input into a session.
func (sh *shell) write(ctx context.Context, id int, name string, size int64) error {
	in, free, err := newInput(ctx, sh.in)
	if err != nil {
		return err
	}
	defer free()
	return sh.stream(id, name, size, in)
}

func (sh *shell) stream(id int, name string, size int64, r io.Reader) error {
	if size <= 0 {
		sh.errorf("Error: must specify an APK size\n")
		return code(1)
	}
	err := sh.server.packages.Write(id, name, size, r)
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return exception{"java.lang.SecurityException", fmt.Sprintf("Caller has no access to session %d", id)}
	case errdefs.IsInvalidArgument(err):
		return illegalArgument("Invalid name: %s", name)
	case errors.Is(err, io.ErrUnexpectedEOF):
		sh.errorf("Error: failed to write; Unexpected EOF: %v\n", err)
		return code(1)
	}
	sh.errorf("Error: failed to write; %v\n", err)
	return code(1)
}

// commit installs a session and says what came of it.
func (sh *shell) commit(id int) error {
	_, err := sh.server.packages.Commit(id)
	var failure *packages.Failure
	switch {
	case err == nil:
		sh.printf("Success\n")
		return nil
	case errdefs.IsNotFound(err):
		return exception{"java.lang.SecurityException", fmt.Sprintf("Caller has no access to session %d", id)}
	case errors.As(err, &failure):
		sh.printf("Failure [%v]\n", failure)
		return code(1)
	}
	return err
}

func pmInstallCommit(_ context.Context, sh *shell) error {
	id, err := sh.number("install-commit")
	if err != nil {
		return err
	}
	return sh.commit(int(id))
}

func pmInstallAbandon(_ context.Context, sh *shell) error {
	id, err := sh.number("install-abandon")
	if err != nil {
		return err
	}
	if err := sh.server.packages.Abandon(int(id)); err != nil {
		return exception{"java.lang.SecurityException", fmt.Sprintf("Caller has no access to session %d", id)}
	}
	sh.printf("Success\n")
	return nil
}

func pmUninstall(_ context.Context, sh *shell) error {
	keep, user := false, allUsers
	for {
		opt, ok := sh.option()
		if !ok {
			break
		}
		var err error
		switch opt {
		case "-k":
			keep = true
		case "--user":
			user, err = sh.user()
		case "--versionCode":
			_, err = sh.number(opt)
		default:
			err = illegalArgument("Unknown option: %s", opt)
		}
		if err != nil {
			return err
		}
	}
	name, ok := sh.next()
	if !ok {
		sh.errorf("Error: package name not specified\n")
		return code(1)
	}
	err := sh.server.packages.Uninstall(name, keep)
	var failure *packages.Failure
	switch {
	case err == nil:
		sh.printf("Success\n")
		return nil
	case errdefs.IsNotFound(err) && user != allUsers:
		sh.printf("Failure [not installed for %d]\n", user)
	case errdefs.IsNotFound(err):
		sh.printf("Failure [DELETE_FAILED_INTERNAL_ERROR]\n")
	case errors.As(err, &failure):
		sh.printf("Failure [%v]\n", failure)
	default:
		return err
	}
	return code(1)
}

// targets reads --user and the names of packages, which must be installed.
func (sh *shell) targets() (names []string, user int, err error) {
	for {
		opt, ok := sh.option()
		if !ok {
			break
		}
		switch opt {
		case "--user":
			user, err = sh.user()
		case "--dialogMessage":
			_, err = sh.value(opt)
		default:
			err = illegalArgument("Unknown option: %s", opt)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if len(sh.args) == 0 {
		sh.errorf("Error: package name not specified\n")
		return nil, 0, code(1)
	}
	for _, name := range sh.args {
		if _, err := sh.server.packages.Get(name); err != nil {
			return nil, 0, illegalArgument("Unknown package: %s", name)
		}
	}
	return sh.args, max(user, 0), sh.checkUser(user)
}

func pmSuspend(sh *shell, suspended bool) error {
	names, user, err := sh.targets()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := sh.server.packages.SetState(name, user, func(s *packages.State) { s.Suspended = suspended }); err != nil {
			return err
		}
		sh.printf("Package %s new suspended state: %t\n", name, suspended)
	}
	return nil
}

func pmEnable(sh *shell, state string) error {
	names, user, err := sh.targets()
	if err != nil {
		return err
	}
	for _, name := range names[:1] {
		enabled := state
		if state == "default" {
			enabled = ""
		}
		if err := sh.server.packages.SetState(name, user, func(s *packages.State) { s.Enabled = enabled }); err != nil {
			return err
		}
		if (packages.State{Enabled: enabled}).Off() {
			sh.server.activities.stop(name, user)
		}
		sh.printf("Package %s new state: %s\n", name, state)
	}
	return nil
}

func pmClear(_ context.Context, sh *shell) error {
	names, user, err := sh.targets()
	var e exception
	switch {
	case errors.As(err, &e):
		sh.errorf("Failed\n")
		return code(1)
	case err != nil:
		return err
	}
	if err := sh.server.packages.Clear(names[0], user); err != nil {
		sh.errorf("Failed\n")
		return code(1)
	}
	sh.printf("Success\n")
	return nil
}

func pmCreateUser(_ context.Context, sh *shell) error {
	name, err := sh.value("create-user")
	if err != nil {
		return err
	}
	id, err := sh.server.packages.CreateUser(name)
	if err != nil {
		return err
	}
	sh.printf("Success: created user id %d\n", id)
	return nil
}

func pmRemoveUser(_ context.Context, sh *shell) error {
	id, err := sh.number("remove-user")
	if err != nil {
		return err
	}
	sh.server.activities.stopUser(int(id))
	if err := sh.server.packages.RemoveUser(int(id)); err != nil {
		sh.errorf("Error: couldn't remove user id %d\n", id)
		return code(1)
	}
	sh.printf("Success: removed user\n")
	return nil
}

func pmListUsers(sh *shell) error {
	users := sh.server.packages.Users()
	sh.printf("Users:\n")
	for _, id := range slices.Sorted(maps.Keys(users)) {
		sh.printf("\tUserInfo{%d:%s:%s} running\n", id, users[id], map[bool]string{true: "c13", false: "410"}[id == 0])
	}
	return nil
}
