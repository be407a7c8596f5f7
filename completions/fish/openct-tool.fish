# Numbers and names of the readers that are served, a line each: names may hold blanks.
function __openct_readers
    PATH="$PATH:/usr/local/sbin:/usr/sbin" openct-control status --json 2>/dev/null | sed -n -e 's/^ *"reader": \([0-9]*\),$/\1/p' -e 's/^ *"alias": "\([^"\\]*\)",*$/\1/p'
end

complete -c openct-tool -f
complete -c openct-tool -s r -l reader -x -a '(__openct_readers)' -d 'number or name of the reader'
complete -c openct-tool -s s -l slot -x -d 'slot number'
complete -c openct-tool -l psc -d 'present the PSC of a memory card first'
complete -c openct-tool -s h -l help -d 'print help'
complete -c openct-tool -s v -l version -d 'print the version'
complete -c openct-tool -n __fish_use_subcommand -a list -d 'list the readers'
complete -c openct-tool -n __fish_use_subcommand -a rwait -d 'wait for the reader'
complete -c openct-tool -n __fish_use_subcommand -a wait -d 'wait for a card'
complete -c openct-tool -n __fish_use_subcommand -a atr -d 'print the answer to reset'
complete -c openct-tool -n __fish_use_subcommand -a mf -d 'select the master file'
complete -c openct-tool -n __fish_use_subcommand -a apdu -d 'send APDUs'
complete -c openct-tool -n __fish_use_subcommand -a read -d 'dump a memory card'
complete -c openct-tool -n __fish_use_subcommand -a write -d 'write to a memory card'
