// Command gen writes udev/60-openct.rules from the driver table.
package main

import (
	"flag"
	"log"
	"os"

	"openct/internal/driver"
	"openct/internal/rules"
)

func main() {
	out := flag.String("o", "", "file to write")
	flag.Parse()
	if err := os.WriteFile(*out, rules.Udev(rules.Entries(driver.Table())), 0o644); err != nil {
		log.Fatal(err)
	}
}
