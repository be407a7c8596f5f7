# Numbers and names of the readers that are served, a line each: names may hold blanks.
function __openct_readers
    PATH="$PATH:/usr/local/sbin:/usr/sbin" openct-control status --json 2>/dev/null | sed -n -e 's/^ *"reader": \([0-9]*\),$/\1/p' -e 's/^ *"alias": "\([^"\\]*\)",*$/\1/p'
end

# Names of the readers in openct.conf.
function __openct_configured
    sed -n -e 's/^[[:blank:]]*reader[[:blank:]]*"\([^"]*\)".*/\1/p' -e 's/^[[:blank:]]*reader[[:blank:]][[:blank:]]*\([^"{[:blank:]]\{1,\}\).*/\1/p' /etc/openct.conf 2>/dev/null
end

complete -c openct-control -f
complete -c openct-control -s f -l config -r -F -d 'configuration file'
complete -c openct-control -s n -l no-coldplug -d 'do not serve devices that are plugged in already'
complete -c openct-control -l reader -x -a '(__openct_configured)' -d 'attach a reader of openct.conf'
complete -c openct-control -s o -l output -r -F -d 'the report of verify'
complete -c openct-control -l card -d 'verify: ask the user to remove and insert the card'
complete -c openct-control -l unplug -d 'verify: ask the user to unplug the device and plug it in again'
complete -c openct-control -l suspend -d 'verify: ask the user, and suspend the machine for 15 s'
complete -c openct-control -l force -d 'release: even if a program holds a lock'
complete -c openct-control -s s -l syslog -d 'log to syslog'
complete -c openct-control -s d -l debug -d 'log more'
complete -c openct-control -l json -d 'print JSON'
complete -c openct-control -l watch -d 'status: keep running, print the list when it changes'
complete -c openct-control -s h -l help -d 'print help'
complete -c openct-control -s v -l version -d 'print the version'
set -l commands init attach watch status monitor shutdown doctor check-config verify release take
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a init -d 'start OpenCT'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a attach -d 'serve a device'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a watch -d 'serve devices that are plugged in, without systemd'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a status -d 'list the readers'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a monitor -d 'print a line for each event'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a shutdown -d 'end all handlers'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a doctor -d 'find errors and what to do next'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a check-config -d 'list the errors in openct.conf'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a verify -d 'check a reader and its card, and write a report'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a release -d 'stop the handler of a reader, for another program'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a take -d 'serve released readers again'
complete -c openct-control -n '__fish_seen_subcommand_from check-config' -F
complete -c openct-control -n '__fish_seen_subcommand_from attach verify' -a '(for f in /dev/bus/usb/*/*; echo $f; end)'
complete -c openct-control -n '__fish_seen_subcommand_from release status verify' -a '(__openct_readers)'
