#compdef phonectl
# Completion of phonectl for zsh: source <(phonectl completion zsh)
_phonectl() {
    local -a candidates
    candidates=("${(@f)$(phonectl __complete -- "${(@)words[2,$CURRENT]}" 2>/dev/null)}")
    if (( ${#candidates} == 0 )) || [[ -z ${candidates[1]} ]]; then
        _files
    else
        compadd -- "${candidates[@]}"
    fi
}
compdef _phonectl phonectl
