# Completion of phonectl for fish: phonectl completion fish | source
function __phonectl_complete
    set -l typed (commandline -opc) (commandline -ct)
    phonectl __complete -- $typed[2..-1] 2>/dev/null
end
complete -c phonectl -a '(__phonectl_complete)'
