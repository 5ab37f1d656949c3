package render

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// AppListMode writes what a list does to its packages: "deny", "allow".
func AppListMode(m phonehostv1.AppListMode) string {
	return hyphened(word(m.String(), "APP_LIST_MODE_"))
}

// AppListLine describes a list of apps in a line.
func AppListLine(l *phonehostv1.AppList) string {
	does := map[phonehostv1.AppListMode]string{phonehostv1.AppListMode_APP_LIST_MODE_DENY: "denies", phonehostv1.AppListMode_APP_LIST_MODE_ALLOW: "allows"}
	return Printable(fmt.Sprintf("%s: %s %s, %s; %s", l.GetName(), does[l.GetMode()], count(uint64(l.GetPackageCount()), "package"), inForce(l), onIt(l.GetPhones())))
}

// inForce says whether a list is in force.
func inForce(l *phonehostv1.AppList) string {
	switch {
	case !l.GetEnabled():
		return "disabled"
	case l.GetStrict():
		return "enabled, strict"
	}
	return "enabled"
}

func onIt(phones uint32) string {
	switch phones {
	case 0:
		return "no phone is on it"
	case 1:
		return "1 phone is on it"
	}
	return fmt.Sprintf("%d phones are on it", phones)
}

// AppLists writes lists of apps, a row each.
func AppLists(w io.Writer, lists []*phonehostv1.AppList, now time.Time) error {
	t := NewTable("NAME", "MODE", "PACKAGES", "STATE", "PHONES", "CHANGED", "BY", "NOTE")
	for _, l := range lists {
		note := l.GetProblem()
		if note == "" {
			note = l.GetDescription()
		}
		t.Row(l.GetName(), AppListMode(l.GetMode()), strconv.Itoa(int(l.GetPackageCount())), inForce(l), strconv.Itoa(int(l.GetPhones())),
			Ago(l.GetUpdateTime(), now), l.GetUpdatedBy(), note)
	}
	return t.Write(w)
}

// Enforcement says in a line what a host's kernel refuses.
func Enforcement(e *phonehostv1.AppEnforcement) string {
	var kept []string
	for _, part := range []struct {
		kept bool
		word string
	}{{e.GetInstall(), "installations"}, {e.GetLaunch(), "launches"}, {e.GetNetwork(), "network"}} {
		if part.kept {
			kept = append(kept, part.word)
		}
	}
	if len(kept) == 0 {
		return Printable("this host's kernel refuses nothing: " + strings.Join(e.GetWhy(), "; "))
	}
	text := fmt.Sprintf("this host's kernel refuses %s (tier %s, %s)", strings.Join(kept, ", "), e.GetTier(), e.GetMechanism())
	if len(kept) < 3 && len(e.GetWhy()) > 0 {
		text += ": " + strings.Join(e.GetWhy(), "; ")
	}
	return Printable(text)
}

// AppList writes a list of apps with its packages and phones.
func AppList(w io.Writer, answer *phonehostv1.GetAppListResponse, now time.Time) error {
	l := answer.GetAppList()
	var f fields
	f.add("name", l.GetName())
	f.add("mode", AppListMode(l.GetMode()))
	f.add("state", inForce(l))
	if l.GetDenyIsolated() {
		f.add("isolated", "denied")
	}
	f.add("problem", l.GetProblem())
	f.add("description", l.GetDescription())
	f.add("changed", fmt.Sprintf("%s by %s, %s", Ago(l.GetUpdateTime(), now), l.GetUpdatedBy(), count(l.GetGeneration(), "time")))
	f.add("phones", strings.Join(answer.GetPhoneIds(), ", "))
	for _, p := range l.GetPackages() {
		f.add("package", p)
	}
	return f.write(w)
}

// appListLine describes the list that a phone is on in a line; empty where it is on none.
func appListLine(p *phonehostv1.Phone) string {
	name, state := p.GetSpec().GetAppList(), p.GetAppList()
	if name == "" {
		return ""
	}
	parts := []string{name}
	switch {
	case !state.GetInForce():
		parts = append(parts, "not in force")
	case !state.GetComplete():
		parts = append(parts, "by name until it has booted")
	case state.GetDeniedApps() > 0:
		parts = append(parts, fmt.Sprintf("%s denied", count(uint64(state.GetDeniedApps()), "app")))
	}
	if state.GetProblem() != "" {
		parts = append(parts, state.GetProblem())
	}
	return strings.Join(parts, ", ")
}

// AppCheck writes what would become of an app of a phone.
func AppCheck(w io.Writer, pkg string, c *phonehostv1.CheckAppResponse) error {
	var f fields
	f.add("package", pkg)
	f.add("list", c.GetAppList())
	f.add("entry", c.GetEntry())
	if c.GetPreinstalled() {
		f.add("preinstalled", "yes")
	}
	installed := "no"
	if c.GetInstalled() {
		installed = fmt.Sprintf("yes, app id %d", c.GetAppId())
	}
	f.add("installed", installed)
	f.add("same app id", strings.Join(c.GetSharing(), ", "))
	f.add("install", appVerdict(c.GetInstall()))
	f.add("launch", appVerdict(c.GetLaunch()))
	f.add("network", appVerdict(c.GetNetwork()))
	f.add("problem", c.GetProblem())
	return f.write(w)
}

func appVerdict(v *phonehostv1.AppVerdict) string {
	verdict := "allowed"
	switch {
	case v.GetDenied() && v.GetEnforced():
		verdict = "denied"
	case v.GetDenied():
		verdict = "denied, but not by the kernel"
	}
	return verdict + ": " + v.GetText()
}

// AppDenials is the table of what was refused to apps, which grows as it comes.
type AppDenials struct {
	table   *Table
	started bool
}

// NewAppDenials returns an empty table.
func NewAppDenials() *AppDenials {
	return &AppDenials{table: NewTable("TIME               ", "PHONE       ", "LIST        ", "KIND   ", "PACKAGES                ", "UID    ", "COUNT")}
}

// Append writes the header once, and rows.
func (t *AppDenials) Append(w io.Writer, denials []*phonehostv1.AppDenial) error {
	if !t.started && len(denials) > 0 {
		t.started = true
		if err := t.table.Write(w); err != nil {
			return err
		}
	}
	for _, d := range denials {
		uid := ""
		if d.GetUid() != 0 {
			uid = strconv.FormatUint(uint64(d.GetUid()), 10)
		}
		kind := "other"
		if d.GetKind() != 0 {
			kind = hyphened(word(d.GetKind().String(), "APP_DENIAL_KIND_"))
		}
		err := t.table.Append(w, d.GetLastTime().AsTime().UTC().Format(time.DateTime), d.GetPhoneId(), d.GetAppList(), kind,
			strings.Join(d.GetPackages(), " "), uid, strconv.FormatUint(d.GetCount(), 10))
		if err != nil {
			return err
		}
	}
	return nil
}

// AppDenialsOf reads denials from events of the journal; ids limits it, none means all phones.
func AppDenialsOf(events []*phonehostv1.Event, ids []string) []*phonehostv1.AppDenial {
	var denials []*phonehostv1.AppDenial
	for _, e := range events {
		if e.GetKind() == phonehostv1.EventKind_EVENT_KIND_APP_DENIED && (len(ids) == 0 || slices.Contains(ids, e.GetPhoneId())) {
			denials = append(denials, appDenialOf(e))
		}
	}
	return denials
}

func appDenialOf(e *phonehostv1.Event) *phonehostv1.AppDenial {
	at := e.GetAttributes()
	d := &phonehostv1.AppDenial{
		PhoneId: e.GetPhoneId(), AppList: at["app_list"], LastTime: e.GetTime(),
		Kind: phonehostv1.AppDenialKind(phonehostv1.AppDenialKind_value["APP_DENIAL_KIND_"+strings.ToUpper(at["kind"])]),
	}
	if at["packages"] != "" {
		d.Packages = strings.Split(at["packages"], ",")
	}
	// What is absent, or of a newer agent, is left out.
	if n, err := strconv.ParseUint(at["uid"], 10, 32); err == nil {
		d.Uid = uint32(n)
	}
	if n, err := strconv.ParseUint(at["count"], 10, 64); err == nil {
		d.Count = n
	}
	if first, err := time.Parse(time.RFC3339Nano, at["first"]); err == nil {
		d.FirstTime = timestamppb.New(first)
	}
	return d
}
