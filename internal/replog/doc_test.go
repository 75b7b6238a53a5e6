package replog

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every offset that the format document names is that of the code, and the
// document names every offset of the code.
func TestFormatDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/format/replog.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	code := map[string]int{
		"offMagic": offMagic, "offMajor": offMajor, "offCompat": offCompat, "offIncompat": offIncompat,
		"offUUID": offUUID, "offDomain": offDomain, "offTimeline": offTimeline, "offEpoch": offEpoch,
		"offIncarnation": offIncarnation, "offPageCRC": offPageCRC,
		"fileOffNumber": fileOffNumber, "fileOffFirstSeq": fileOffFirstSeq, "fileOffFirstBatch": fileOffFirstBatch,
		"fileOffPrevCRC": fileOffPrevCRC, "fileOffCarryCRC": fileOffCarryCRC, "fileOffCarryBytes": fileOffCarryBytes, "fileOffSize": fileOffSize,
		"carryOffRecords": carryOffRecords, "carryOffSessions": carryOffSessions, "carryHeadSize": carryHeadSize,
		"headOffMagic": headOffMagic, "headOffUUID": headOffUUID, "headOffIncarnation": headOffIncarnation, "headOffCount": headOffCount,
		"headOffNumber": headOffNumber, "headOffFirstSeq": headOffFirstSeq, "headOffPayloadPages": headOffPayloadPages,
		"headOffPrevCRC": headOffPrevCRC, "headOffDescCRC": headOffDescCRC, "headOffCRC": headOffCRC,
		"stateOffGeneration": stateOffGeneration, "stateOffFirstFile": stateOffFirstFile, "stateOffTrimmed": stateOffTrimmed,
		"stateOffDurableBatch": stateOffDurableBatch, "stateOffDurableSeq": stateOffDurableSeq, "stateOffFileSize": stateOffFileSize,
	}
	rows := regexp.MustCompile("(?m)^\\| (\\d+) \\| \\d* ?\\| `(\\w+)` \\|").FindAllStringSubmatch(doc, -1)
	named := map[string]bool{}
	for _, row := range rows {
		want, ok := code[row[2]]
		if named[row[2]] || !ok {
			t.Errorf("%s is named twice or is not in the code", row[2])
		}
		named[row[2]] = true
		if got, _ := strconv.Atoi(row[1]); got != want {
			t.Errorf("%s is %d in the document, %d in the code", row[2], got, want)
		}
	}
	for name := range code {
		if !named[name] {
			t.Errorf("%s is not in the document", name)
		}
	}
	for _, name := range offsetConstants(t) {
		if _, ok := code[name]; !ok {
			t.Errorf("%s is in the code and not in this test", name)
		}
	}
	for _, words := range []string{
		magicFile, magicState, magicBatch, "`" + stateName + "`", slotPath("", 0), slotPath("", 1),
		fmt.Sprintf("format, %d;", formatMajor), fmt.Sprintf("A page is %d bytes", pageSize),
		fmt.Sprintf("%d records and %d payload pages", maxBatchRecords, maxBatchPages),
		fmt.Sprintf("%d on the first page", pageSize/headSize-1), fmt.Sprintf("%d-byte descriptors", headSize),
		fmt.Sprintf("take %d pages", batchBytes(maxBatchRecords, maxBatchRecords)/pageSize),
		fmt.Sprintf("at most %d MiB", maxCarry>>20), fmt.Sprintf("A session is %d bytes", carrySessionSize),
	} {
		if !strings.Contains(doc, words) {
			t.Errorf("the document does not say %q", words)
		}
	}
}

// offsetConstants lists the constants of the package that are offsets.
func offsetConstants(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, file := range []string{"format.go", "batch.go", "carry.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				for _, id := range v.Names {
					if regexp.MustCompile(`^(file|state|head|carry)?[oO]ff[A-Z]`).MatchString(id.Name) {
						names = append(names, id.Name)
					}
				}
			}
			return true
		})
	}
	if len(names) < 30 {
		t.Fatalf("found only %v", names)
	}
	return names
}
