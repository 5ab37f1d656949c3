package render

import (
	"io"
	"strings"
	"unicode/utf8"
)

// Table is rows of cells under a header. Columns are as wide as their widest cell and two spaces apart; the last one is
// not padded.
type Table struct {
	header []string
	widths []int
	rows   [][]string
}

// NewTable returns a table with the given column names. A column name may end with spaces, which keep the column at
// least that wide when rows come one at a time.
func NewTable(header ...string) *Table {
	t := &Table{header: make([]string, len(header)), widths: make([]int, len(header))}
	for i, h := range header {
		t.header[i] = strings.TrimRight(h, " ")
		t.widths[i] = len(h)
	}
	return t
}

// Row adds a row; an empty cell is shown as "-", a missing one too.
func (t *Table) Row(cells ...string) {
	t.rows = append(t.rows, t.fit(cells))
}

// Write writes the header and all rows.
func (t *Table) Write(w io.Writer) error {
	var b strings.Builder
	t.line(&b, t.header)
	for _, row := range t.rows {
		t.line(&b, row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Append writes one further row under a table that was written before, in the widths that it had then or wider.
func (t *Table) Append(w io.Writer, cells ...string) error {
	var b strings.Builder
	t.line(&b, t.fit(cells))
	_, err := io.WriteString(w, b.String())
	return err
}

// fit makes cells printable, fills in what is missing and widens the columns.
func (t *Table) fit(cells []string) []string {
	row := make([]string, len(t.header))
	for i := range row {
		row[i] = "-"
		if i < len(cells) && cells[i] != "" {
			row[i] = Printable(cells[i])
		}
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(row[i]))
	}
	return row
}

func (t *Table) line(b *strings.Builder, row []string) {
	for i, cell := range row {
		b.WriteString(cell)
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+2))
		}
	}
	b.WriteByte('\n')
}

// fields is an aligned list of names and values, for one object.
type fields struct {
	rows [][2]string
}

// add appends a field and its value; an empty value is left out.
func (f *fields) add(name, value string) {
	if value != "" {
		f.rows = append(f.rows, [2]string{name, Printable(value)})
	}
}

func (f *fields) write(w io.Writer) error {
	width := 0
	for _, row := range f.rows {
		width = max(width, len(row[0]))
	}
	var b strings.Builder
	for _, row := range f.rows {
		b.WriteString(row[0])
		b.WriteString(strings.Repeat(" ", width-len(row[0])+2))
		b.WriteString(row[1])
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}
