package phone

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
)

// goldenTables reads the two tables of docs/api.md: what each request meets in each status, and in what is under way.
func goldenTables(t *testing.T) (inStatus, inObstacle map[asked]map[string]verdict) {
	t.Helper()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]map[asked]map[string]verdict{}
	var header []string
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case !strings.HasPrefix(line, "|"):
			header = nil
		case cells[0] == "request":
			header = cells
			tables[header[1]] = map[asked]map[string]verdict{}
		case header != nil && !strings.HasPrefix(cells[0], "---"):
			row := map[string]verdict{}
			for i, cell := range cells[1:] {
				row[header[i+1]] = verdict(strings.TrimPrefix(cell, "-"))
			}
			tables[header[1]][askedOf(t, cells[0])] = row
		}
	}
	return tables["0 UNKNOWN"], tables["PowerOn"]
}

// askedOf reads the first cell of a row.
func askedOf(t *testing.T, cell string) asked {
	t.Helper()
	name, force := strings.CutSuffix(cell, ", force")
	return asked{kindOf(t, name), force}
}

// kindOf reads the name of a request.
func kindOf(t *testing.T, name string) operation.Kind {
	t.Helper()
	name, _, _ = strings.Cut(name, " (")
	for _, kind := range operation.Kinds() {
		if strings.EqualFold(strings.ReplaceAll(kind.String(), " ", ""), name) {
			return kind
		}
	}
	if name == "its data is copied" {
		return beingCopied
	}
	t.Fatalf("docs/api.md names %q, which is no request", name)
	return 0
}

// TestEveryMeeting enumerates request x force x status x what is under way x frozen, and compares what the rules say with the tables
// of docs/api.md, joined as the page says that they are.
func TestEveryMeeting(t *testing.T) {
	inStatus, inObstacle := goldenTables(t)
	if len(inStatus) != len(byStatus) || len(inObstacle) != len(byObstacle) {
		t.Fatalf("docs/api.md has %d and %d rows, the rules %d and %d", len(inStatus), len(inObstacle), len(byStatus), len(byObstacle))
	}
	tasks := []operation.Kind{
		0, operation.PowerOn, operation.PowerOff, operation.Restart, operation.Reset, operation.Delete, operation.Freeze, operation.Clone,
		operation.ImportData,
	}
	kinds := []operation.Kind{
		operation.PowerOn, operation.PowerOff, operation.Restart, operation.Reset, operation.Delete, operation.Freeze, operation.Unfreeze,
		operation.Update, operation.Clone, operation.ImportData,
	}
	seen := 0
	for _, kind := range kinds {
		for _, force := range []bool{false, true} {
			for status := Unknown; status <= PoweredOff; status++ {
				for _, task := range tasks {
					for bits := range 8 {
						s := situation{status: status, task: task, frozen: bits&1 != 0, change: bits&2 != 0, read: bits&4 != 0}
						want, names := expect(t, inStatus, inObstacle, kind, force, s)
						got, obstacle := judge(kind, force, s)
						if got != want || obstacle != names {
							t.Errorf("%s, force %v, in %+v: %q by %d, the page says %q by %d", kind, force, s, got, obstacle, want, names)
						}
						checkRefusal(t, kind, force, s, want, names)
						seen++
					}
				}
			}
		}
	}
	if want := len(kinds) * 2 * 6 * len(tasks) * 8; seen != want {
		t.Errorf("%d meetings were compared, want %d", seen, want)
	}
}

// expect joins the tables for one meeting.
func expect(t *testing.T, inStatus, inObstacle map[asked]map[string]verdict, kind operation.Kind, force bool, s situation) (verdict, operation.Kind) {
	t.Helper()
	if s.frozen && (kind == operation.PowerOn || kind == operation.Restart) {
		return fault.Frozen, 0
	}
	find := func(table map[asked]map[string]verdict) map[string]verdict {
		if row, has := table[asked{kind, force}]; has {
			return row
		}
		return table[asked{kind, false}]
	}
	v := find(inStatus)[fmt.Sprintf("%d %s", s.status, s.status)]
	if v == fault.NotRunning && kind == operation.PowerOff && s.task == operation.ImportData {
		return wins, operation.ImportData
	}
	if v == fault.ContainerdLost || v == fault.NotRunning || v == fault.NotOff {
		return v, 0
	}
	won := operation.Kind(0)
	row := find(inObstacle)
	columns := slices.SortedFunc(maps.Keys(row), func(a, b string) int { return place(kindOf(t, a)) - place(kindOf(t, b)) })
	for _, column := range columns {
		what := kindOf(t, column)
		if !(what == s.task || what == operation.Update && s.change || what == beingCopied && s.read) {
			continue
		}
		switch row[column] {
		case fault.Busy:
			return fault.Busy, what
		case "wins":
			won = what
		}
	}
	if won != 0 {
		return "wins", won
	}
	return v, 0
}

// place orders obstacles as the page's columns are.
func place(what operation.Kind) int { return slices.Index(obstacles[:], what) }

// checkRefusal turns a meeting into an error, and looks at its class, reason and operation.
func checkRefusal(t *testing.T, kind operation.Kind, force bool, s situation, want verdict, names operation.Kind) {
	t.Helper()
	r := Record{Spec: Spec{ID: "p1"}}
	if s.task != 0 {
		r.Task = &Task{OperationID: "op-7", Kind: s.task}
	}
	if s.change {
		r.Change = &Task{OperationID: "op-8", Kind: operation.Update}
	}
	if s.read {
		r.Readers = map[string]string{"p2": "op-9"}
	}
	if s.frozen {
		r.Freezes = []Freeze{{Reason: FrozenPolice}}
	}
	err := refusal(kind, force, s.status, &r)
	if want == ok || want == wins {
		if err != nil {
			t.Errorf("%s in %+v is refused: %v", kind, s, err)
		}
		return
	}
	if verdict(fault.Reason(err)) != want {
		t.Errorf("%s in %+v: %v, want reason %s", kind, s, err, want)
	}
	if class := errdefs.IsUnavailable(err); class != (want == lost) || !class && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%s in %+v: %v has the wrong class", kind, s, err)
	}
	named := map[operation.Kind]string{operation.Update: "op-8", beingCopied: "op-9"}[names]
	switch {
	case names == 0 && s.task != 0 && want == busy, names != 0 && named == "":
		named = "op-7"
	}
	if got := fault.Meta(err)["operation_id"]; got != named || named != "" && !strings.Contains(err.Error(), named) {
		t.Errorf("%s in %+v: %v names operation %q, want %q", kind, s, err, got, named)
	}
}
